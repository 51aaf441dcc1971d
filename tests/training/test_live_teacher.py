"""The live teacher: its own precision, its own device, no gradient, and only where it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data.samples import read_samples
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.cross_tokenizer import CrossTokenizer
from limbeck.losses.divergence import Divergence
from limbeck.recipe.sections import Labelling, Student, Training
from limbeck.records import Sample
from limbeck.teachers import OpenTeacher
from limbeck.teachers.transformers import Transformers
from limbeck.training.batches import Example
from limbeck.training.stage import LabelFolder, live_signal, train_student


@pytest.fixture(scope="module")
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train")[:6]


def teacher(model: Path, **fields: Any) -> Transformers:
    return Transformers.model_validate({"backend": "transformers", "model": str(model), **fields})


def examples_of(samples: Sequence[Sample], target: str = "teacher") -> list[Example]:
    return [Example(sample, sample.references[0], target) for sample in samples]


def score(session: OpenTeacher, samples: Sequence[Sample]) -> torch.Tensor:
    scored = session.score(samples, [sample.references[0] for sample in samples])
    return torch.cat([answer.logits_NV for answer in scored])


def ask(session: OpenTeacher, samples: Sequence[Sample], target: str = "teacher") -> torch.Tensor:
    scored = session.score(samples, [sample.references[0] for sample in samples])
    source = live_signal(session, examples_of(samples, target))
    signal = source.signal([s.id for s in samples], [answer.answer_ids for answer in scored])
    return signal.logits_NV


def test_scores_in_its_own_precision_while_the_student_trains_in_autocast(
    screens: Path, tiny_model: Path, samples: list[Sample]
) -> None:
    session = teacher(tiny_model).open(screens, device="cpu")
    plain = score(session, samples)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ask(session, samples), plain)
    own = teacher(tiny_model, dtype="bfloat16").open(screens, device="cpu")
    assert not torch.equal(score(own, samples), plain), "asked for, it has another precision"


def test_has_no_graph_and_can_be_trained_against(
    screens: Path, tiny_model: Path, samples: list[Sample]
) -> None:
    session = teacher(tiny_model).open(screens, device="cpu")
    logits_NV = ask(session, samples)
    assert not logits_NV.requires_grad
    assert not logits_NV.is_inference()


def test_is_asked_for_gold_examples_where_gold_answers_are_labelled(
    screens: Path, tiny_model: Path, samples: list[Sample]
) -> None:
    session = teacher(tiny_model).open(screens, device="cpu")
    assert torch.equal(ask(session, samples, "gold"), score(session, samples))


@pytest.mark.parametrize(
    ("asked", "recipe", "found"),
    [("auto", "cpu", "cpu"), ("cpu", "cuda", "cpu"), ("meta", "cpu", None), ("cuda:1", "cpu", "")],
)
def test_device_overrides_the_recipes(
    screens: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    recipe: str,
    found: str | None,
) -> None:
    from limbeck.models import load

    if found is None:
        with pytest.raises(ValueError, match="device"):
            teacher(tiny_model, device=asked)
        return
    seen: list[str] = []
    real = load.load_model

    def load_on_cpu(section: Any, *, device: str) -> Any:
        seen.append(device)
        return real(section, device="cpu")

    monkeypatch.setattr(load, "load_model", load_on_cpu)
    teacher(tiny_model, device=asked).open(screens, device=recipe)
    assert seen == [found or asked]


def test_where_it_runs_is_no_part_of_what_it_is(tiny_model: Path) -> None:
    assert teacher(tiny_model, device="cpu").identity() == teacher(tiny_model).identity()


def test_its_memory_is_that_of_its_weights(screens: Path, tiny_model: Path) -> None:
    session = teacher(tiny_model).open(screens, device="cpu")
    said = session.describe_memory()
    number, _, rest = said.partition(" ")
    tensors = [*session.loaded.model.parameters(), *session.loaded.model.buffers()]
    assert float(number) == pytest.approx(sum(t.nbytes for t in tensors) / 2**30, rel=0.01)
    assert rest == "GiB of weights (float32) on cpu"
    half = teacher(tiny_model, dtype="bfloat16").open(screens, device="cpu").describe_memory()
    assert float(half.split()[0]) < 0.6 * float(number)
    assert "(bfloat16)" in half


@pytest.mark.parametrize(
    ("losses", "signal", "runs"),
    [
        ([CrossEntropy()], "live", False),
        ([CrossEntropy(), Divergence()], "live", True),
        ([CrossTokenizer()], "live", True),
    ],
)
def test_runs_only_beside_students_that_need_it(
    screens: Path,
    tiny_model: Path,
    tmp_path: Path,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    losses: list[Any],
    signal: str,
    runs: bool,
) -> None:
    from limbeck.labelling import label

    settings = Labelling.model_validate({"answers": "gold", "signal": signal})
    labels = tmp_path / "labels"
    section = teacher(tiny_model)
    label(
        labels,
        teacher=section,
        samples=samples,
        data=screens,
        settings=settings,
        key={},
        device="cpu",
    )
    opened: list[bool] = []
    real = Transformers.open

    def open_and_note(self: Transformers, data: Path, **options: Any) -> OpenTeacher:
        opened.append(True)
        return real(self, data, **options)

    monkeypatch.setattr(Transformers, "open", open_and_note)
    summary = train_student(
        tmp_path / "student",
        section=Student(model=str(tiny_model)),
        losses=losses,
        training=Training(steps=1, samples_per_step=2, precision="bf16"),
        labelling=settings,
        teacher=section,
        labels=[LabelFolder(labels, samples, {})],
        data=screens,
        seed=0,
        device="cpu",
        title="test",
    )
    assert bool(opened) is runs
    stated = summary["preflight"]["live_teacher"]
    assert (stated is not None) is runs
    if runs:
        assert "GiB of weights (float32) on cpu" in stated
        assert f"live teacher: {stated}" in capsys.readouterr().err
