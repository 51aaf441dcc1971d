"""A student of its teacher's layers: the weights are the teacher's, and only depth is another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data.samples import read_samples
from limbeck.data.tokens import collate
from limbeck.errors import UsageError
from limbeck.models.family import family_named, family_names
from limbeck.models.inherit import by_rule, inherit_model, layer_influence
from limbeck.models.layers import layers_of
from limbeck.models.load import LoadedModel, load_model
from limbeck.recipe.sections import Inherit, ModelSection
from limbeck.records import Sample


@pytest.fixture(scope="module", params=family_names())
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return family_named(request.param).tiny(folder, layers=4, vision_layers=4)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    return family_named("qwen2_vl").tiny(folder, layers=4, vision_layers=4)


@pytest.fixture(scope="module")
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train", 3)


def load(folder: Path) -> LoadedModel:
    return load_model(ModelSection(model=str(folder)), device="cpu")


def inherited(
    teacher: Path, output: Path, samples: Any = (), data: Any = None, **parts: Any
) -> Any:
    section = ModelSection(model=str(teacher))
    inherit = Inherit.model_validate(parts)
    return inherit_model(inherit, section, samples, data or output, output, device="cpu")


def hidden(loaded: LoadedModel, samples: list[Sample], data: Path) -> torch.Tensor:
    items = [loaded.encoder.encode(sample, data, "yes") for sample in samples]
    batch = collate(items, pad_id=loaded.encoder.pad_id, side="right")
    with torch.no_grad():
        return loaded.hidden_states(batch.inputs)


def test_all_layers_make_the_teacher_again(
    teacher: Path, tmp_path: Path, samples: list[Sample], screens: Path
) -> None:
    facts = inherited(teacher, tmp_path)
    assert facts["parameters"] == facts["parameters_of_the_teacher"]
    own, theirs = (hidden(load(folder), samples, screens) for folder in (tmp_path, teacher))
    assert torch.equal(own, theirs)


def test_kept_layers_have_the_teachers_weights_and_the_others_are_gone(
    teacher: Path, tmp_path: Path, samples: list[Sample], screens: Path
) -> None:
    facts = inherited(teacher, tmp_path, language={"listed": [0, 3]}, vision={"listed": [0, 1, 3]})
    own, theirs = load(tmp_path), load(teacher)
    for part, kept in (("language_model", (0, 3)), ("vision_tower", (0, 1, 3))):
        _, layers = layers_of(own.family, own.base, part)  # type: ignore[arg-type]
        _, all_layers = layers_of(theirs.family, theirs.base, part)  # type: ignore[arg-type]
        assert len(layers) == len(kept)
        for layer, number in zip(layers, kept, strict=True):
            expected = all_layers[number].state_dict()
            assert all(torch.equal(t, expected[n]) for n, t in layer.state_dict().items())
    elsewhere = {n: t for n, t in own.base.state_dict().items() if ".layers." not in n}
    expected = theirs.base.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in elsewhere.items() if ".blocks." not in n)
    counted = sum(parameter.numel() for parameter in own.base.parameters())
    assert facts["parameters"] == counted < facts["parameters_of_the_teacher"]
    assert facts["language_layers"] == {"kept": [0, 3], "of": 4, "influence": None}
    assert hidden(own, samples, screens).isfinite().all()
    assert len(own.generate([own.encoder.encode(samples[0], screens, None)], max_new_tokens=4)) == 1


def test_skipping_a_layer_is_what_the_student_computes(
    qwen: Path, tmp_path: Path, samples: list[Sample], screens: Path
) -> None:
    inherited(qwen, tmp_path, language={"listed": [0, 2, 3]})
    student, cut = load(tmp_path), load(qwen)
    _, layers = layers_of(cut.family, cut.base, "language_model")
    layers[1].forward = lambda hidden_states, *_, **__: hidden_states  # type: ignore[method-assign]
    assert torch.equal(hidden(student, samples, screens), hidden(cut, samples, screens))


@pytest.mark.parametrize(
    ("rule", "count", "total", "expected"),
    [
        ("first", 3, 8, (0, 1, 2)),
        ("spread", 3, 9, (0, 4, 8)),
        ("spread", 14, 28, (0, 2, 4, 6, 8, 10, 12, 15, 17, 19, 21, 23, 25, 27)),
        ("spread", 1, 4, (0,)),
        ("spread", 4, 4, (0, 1, 2, 3)),
    ],
)
def test_rules(rule: str, count: int, total: int, expected: tuple[int, ...]) -> None:
    assert by_rule(rule, count, total) == expected


def test_a_layer_that_changes_nothing_has_no_influence_and_goes_first(
    qwen: Path, tmp_path: Path, samples: list[Sample], screens: Path
) -> None:
    loaded = load(qwen)
    _, layers = layers_of(loaded.family, loaded.base, "language_model")
    with torch.no_grad():
        for name, parameter in loaded.base.named_parameters():
            if "layers." in name and parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        for number, strength in ((1, 0.0), (2, 0.1)):
            for name in ("self_attn.o_proj", "mlp.down_proj"):
                layers[number].get_submodule(name).weight.mul_(strength)
    idle = tmp_path / "idle"
    loaded.save(idle)
    measured = load(idle)
    _, layers = layers_of(measured.family, measured.base, "language_model")
    influence = layer_influence(measured, layers, samples, screens, text=True)
    assert abs(influence[1]) < 1e-6
    assert all(value > 1e-4 for at, value in enumerate(influence) if at != 1)
    facts = inherited(
        idle, tmp_path / "out", samples, screens, language={"rule": "influence", "count": 3}
    )
    assert facts["language_layers"]["kept"] == [0, 2, 3]
    assert facts["language_layers"]["influence"] == pytest.approx(influence, abs=1e-5)


def test_padding_has_no_say_in_influence(qwen: Path, samples: list[Sample], screens: Path) -> None:
    from dataclasses import replace

    loaded = load(qwen)
    _, layers = layers_of(loaded.family, loaded.base, "language_model")
    short = replace(samples[0], references=("a",))
    long = replace(samples[1], references=("word " * 60,))
    together = layer_influence(loaded, layers, [short, long], screens, text=True)
    alone = [layer_influence(loaded, layers, [s], screens, text=True) for s in (short, long)]
    tokens = [
        len(loaded.encoder.encode(s, screens, s.references[0]).input_ids_L) for s in (short, long)
    ]
    expected = [(a * tokens[0] + b * tokens[1]) / sum(tokens) for a, b in zip(*alone, strict=True)]
    assert together == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("family", "parts", "message"),
    [
        ("qwen2_vl", {"language": {"listed": [0, 4]}}, "no layer 4"),
        ("qwen2_vl", {"vision": {"count": 5}}, "has 4 layers, not 5"),
        ("qwen2_5_vl", {"vision": {"listed": [0]}}, "fullatt_block_indexes"),
        ("qwen3_vl", {"vision": {"listed": [1, 2]}}, "deepstack_visual_indexes"),
        ("qwen2_vl", {"language": {"rule": "influence", "count": 2}}, "samples with pictures"),
    ],
)
def test_what_cannot_be_is_refused(family: str, parts: Any, message: str, tmp_path: Path) -> None:
    folder = family_named(family).tiny(tmp_path / "teacher", layers=4, vision_layers=4)
    with pytest.raises(UsageError, match=message):
        inherited(folder, tmp_path / "student", **parts)


@pytest.mark.parametrize(
    "choice", [{}, {"count": 2, "listed": [0]}, {"listed": [1, 0]}, {"listed": [0, 0]}]
)
def test_a_choice_that_means_nothing_is_refused(choice: Any) -> None:
    with pytest.raises(ValueError, match=r"count and listed|increase"):
        Inherit.model_validate({"language": choice})
