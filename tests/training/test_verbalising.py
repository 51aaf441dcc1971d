"""Layers that speak: verbalisers beat the logit lens, and interaction follows the paper's rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.data.samples import read_samples
from limbeck.errors import DataError, UsageError
from limbeck.losses.verbal import Verbalisers
from limbeck.losses.verbalised import Verbalised, divergences
from limbeck.models.family import family_named
from limbeck.models.load import LoadedModel, load_model
from limbeck.models.verbaliser import Verbaliser, new_verbalisers, read_verbalisers
from limbeck.recipe.sections import ModelSection, Training
from limbeck.records import Features, ModelShape, StudentView, Tap
from limbeck.training.batches import Example
from limbeck.training.verbalising import read_both, train_verbalisers

ROWS, WIDTH, THEIR_WIDTH, VOCABULARY = 7, 6, 9, 11


@pytest.fixture(scope="module")
def examples(screens: Path) -> list[Example]:
    return [Example(s, s.references[0], "teacher") for s in read_samples(screens, "train", 20)]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LoadedModel:
    return load_model(ModelSection(model=str(tiny_model)), device="cpu")


def train(folder: Path, model: Path, examples: list[Example], data: Path, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "section": ModelSection(model=str(model)),
        "layers": 1,
        "init": "residual_zero",
        "training": Training(steps=100, samples_per_step=8, learning_rate=1e-2, precision="fp32"),
        "examples": examples,
        "data": data,
        "seed": 0,
        "device": "cpu",
        "title": "verbalisers",
        "with_head": False,
    }
    return train_verbalisers(folder, **{**options, **changes})


def test_verbalisers_speak_better_than_the_logit_lens_and_the_backbone_stays(
    tiny_model: Path, examples: list[Example], screens: Path, tmp_path: Path
) -> None:
    before = {f.name: f.read_bytes() for f in tiny_model.iterdir() if f.is_file()}
    facts = train(tmp_path, tiny_model, examples, screens)
    assert facts["held_out_samples"] == 2
    for trained, lens in zip(facts["losses"], facts["logit_lens_losses"], strict=True):
        assert trained < lens - 0.1
    assert before == {f.name: f.read_bytes() for f in tiny_model.iterdir() if f.is_file()}
    verbalisers, kept = read_verbalisers(tmp_path, "cpu")
    assert kept["layers"] == facts["layers"]
    assert len(verbalisers) == len(facts["layers"])


def test_the_logit_lens_is_where_residual_zero_begins_and_random_does_not(
    tiny_model: Path, examples: list[Example], screens: Path, tmp_path: Path
) -> None:
    lens = train(tmp_path / "lens", tiny_model, examples, screens, init="logit_lens")
    assert lens["losses"] == lens["logit_lens_losses"]
    assert "steps" not in lens, "nothing was trained"
    one = Training(steps=1, samples_per_step=2, learning_rate=1e-9)
    zero = train(tmp_path / "zero", tiny_model, examples, screens, training=one)
    assert zero["losses"] == pytest.approx(zero["logit_lens_losses"], abs=1e-4)
    drawn = train(tmp_path / "drawn", tiny_model, examples, screens, init="random", training=one)
    assert drawn["losses"] != pytest.approx(drawn["logit_lens_losses"], abs=1e-4)


def test_the_last_layer_through_the_lens_is_the_model_itself(
    tiny_model: Path, examples: list[Example], screens: Path, tmp_path: Path
) -> None:
    facts = train(tmp_path, tiny_model, examples, screens, init="logit_lens")
    assert facts["losses"][-1] == pytest.approx(facts["own_loss"], abs=1e-5)


def test_a_broken_folder_and_a_head_of_other_tokens_are_refused(
    tiny_model: Path, model: LoadedModel, examples: list[Example], screens: Path, tmp_path: Path
) -> None:
    from limbeck.models.vocabulary import shared_vocabulary

    train(tmp_path, tiny_model, examples, screens, init="logit_lens", with_head=True)
    rows = model.model.get_output_embeddings().weight.shape[0]
    vocabulary = shared_vocabulary(model.tokenizer, model.tokenizer, rows, rows)
    both = read_both(model, vocabulary, tmp_path, tmp_path)
    assert both.vocabulary == vocabulary.size
    fewer = type(vocabulary)(**{**vars(vocabulary), "size": vocabulary.size - 1})
    with pytest.raises(UsageError, match="are shared"):
        read_both(model, fewer, tmp_path, tmp_path)
    (tmp_path / "verbalisers.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="verbalisers cannot be read"):
        read_verbalisers(tmp_path, "cpu")


def test_new_verbalisers_need_an_rms_norm(tmp_path: Path) -> None:
    folder = family_named("qwen2_vl").tiny(tmp_path)
    loaded = load_model(ModelSection(model=str(folder)), device="cpu")
    loaded.base.model.language_model.norm = nn.LayerNorm(32)
    with pytest.raises(UsageError, match="no RMSNorm"):
        new_verbalisers(loaded, 1, "random")


# -- the interaction, on numbers ----------------------------------------------------------------


def setting(student: int = 2, teacher: int = 3) -> tuple[StudentView, Features, Verbalisers]:
    torch.manual_seed(0)
    mine = nn.ModuleList(Verbaliser(WIDTH, 1e-6, True) for _ in range(student))
    theirs = nn.ModuleList(Verbaliser(THEIR_WIDTH, 1e-6, True) for _ in range(teacher))
    module = Verbalisers(mine, theirs, torch.randn(VOCABULARY, THEIR_WIDTH))
    head = torch.randn(VOCABULARY, WIDTH)
    lengths = (3, 4)

    def states(count: int, width: int) -> Features:
        found = {
            Tap("hidden", at): tuple(torch.randn(n, width, requires_grad=True) for n in lengths)
            for at in range(count)
        }
        return Features(found, (None, None))

    view = StudentView(
        torch.randint(0, VOCABULARY, (ROWS,)),
        torch.randn(ROWS, WIDTH),
        lambda hidden: hidden @ head.T,
        states(student, WIDTH),
    )
    return view, states(teacher, THEIR_WIDTH), module


def by_hand(view: StudentView, teacher: Features, module: Verbalisers) -> torch.Tensor:
    """KL(q_j || p_i), mean over rows, the slow way."""
    own = [torch.cat(s) for s in view.features.tensors.values()]
    theirs = [torch.cat(s) for s in teacher.tensors.values()]
    table = torch.zeros(len(own), len(theirs))
    for i, h in enumerate(own):
        log_p = view.head(module.student[i](h)).log_softmax(-1)
        for j, g in enumerate(theirs):
            q = (module.teacher[j](g) @ module.head_VH.T).softmax(-1)
            table[i, j] = (q * (q.log() - log_p)).sum(-1).mean()
    return table


def test_divergences_are_those_worked_out_pair_by_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    view, teacher, module = setting()
    own, theirs = ([torch.cat(s) for s in f.tensors.values()] for f in (view.features, teacher))
    expected = by_hand(view, teacher, module).detach()
    for elements in (2**24, VOCABULARY * 5 * 2, 1):  # in one piece, two rows, one row
        monkeypatch.setattr("limbeck.losses.chunks.CHUNK_ELEMENTS", elements)
        assert torch.allclose(divergences(view, own, theirs, module), expected, atol=1e-5)


def test_the_loss_is_the_sum_over_layers_of_the_chosen_divergences() -> None:
    view, teacher, module = setting()
    loss = Verbalised(matching="bottom1", student_layers=(0, 1), teacher_layers=(0, 1, 2))
    term = loss.compare(view, teacher, [], module)
    table = by_hand(view, teacher, module)
    first = int(table[0, :2].argmin())
    second = first + 1 + int(table[1, first + 1 :].argmin())
    expected = (table[0, first] + table[1, second]) * ROWS
    assert term.count == ROWS
    assert term.sum.item() == pytest.approx(expected.item(), rel=1e-5)
    chosen = module.matches.nonzero().tolist()
    assert chosen == [[0, first], [1, second]]
    leaves = [*module.student.parameters(), *view.features.tensors[Tap("hidden", 0)]]
    found = torch.autograd.grad(term.sum, leaves)
    for one, other in zip(found, torch.autograd.grad(expected, leaves), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_the_teacher_learns_nothing_from_it() -> None:
    view, teacher, module = setting()
    loss = Verbalised(student_layers=(0, 1), teacher_layers=(0, 1, 2))
    loss.compare(view, teacher, [], module).sum.backward()
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert all(state.grad is None for states in teacher.tensors.values() for state in states)
    assert "head_VH" not in module.state_dict(), "a checkpoint need not hold the teacher's head"
    assert "matches" in module.state_dict()


def test_cross_entropy_is_with_the_teachers_likeliest_token() -> None:
    view, teacher, module = setting(1, 1)
    loss = Verbalised(measure="ce", student_layers=(0,), teacher_layers=(0,))
    (h,), (g,) = ([torch.cat(s) for s in f.tensors.values()] for f in (view.features, teacher))
    log_p = view.head(module.student[0](h)).log_softmax(-1)
    best = (module.teacher[0](g) @ module.head_VH.T).argmax(-1)
    expected = torch.nn.functional.nll_loss(log_p, best, reduction="sum")
    found = loss.compare(view, teacher, [], module).sum
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": True, "search_range": False}, "order needs search_range"),
        ({"matching": "best"}, "multinomial"),
    ],
)
def test_options_that_do_not_go_together_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Verbalised(**fields)


def test_target_layers_are_those_published_and_the_teacher_has_as_many() -> None:
    small, large = ModelShape(28, 8, 8), ModelShape(80, 8, 8)
    loss = Verbalised()
    assert [tap.layer for tap in loss.student_taps(small, large)] == list(range(2, 27, 4))
    assert [tap.layer for tap in loss.teacher_taps(small, large)] == list(range(2, 79, 4))
    with pytest.raises(UsageError, match="7 target layers and the teacher 1"):
        Verbalised(teacher_layers=(0,)).student_taps(small, large)
    with pytest.raises(UsageError, match="does not name layers"):
        Verbalised(student_layers=(28,)).student_taps(small, large)


def test_facts_are_json(
    tiny_model: Path, examples: list[Example], screens: Path, tmp_path: Path
) -> None:
    facts = train(tmp_path, tiny_model, examples, screens, init="logit_lens")
    assert json.loads(json.dumps(facts)) == facts


def choose_as(rank: int, folder: str) -> None:
    """One of two ranks, with random numbers of its own."""
    from torch import distributed

    place = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    view, teacher, module = setting(2, 6)
    torch.manual_seed(100 + rank)
    loss = Verbalised(matching="random", student_layers=(0, 1), teacher_layers=tuple(range(6)))
    for _ in range(20):
        loss.compare(view, teacher, [], module)
    (Path(folder) / f"rank-{rank}.json").write_text(json.dumps(module.matches.tolist()))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_choose_the_same_layers_whatever_they_would_draw(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(choose_as, (str(tmp_path),), nprocs=2)
    one, other = (json.loads((tmp_path / f"rank-{r}.json").read_text()) for r in (0, 1))
    assert one == other
    assert sum(map(sum, one)) == 40
    assert sum(count > 0 for row in one for count in row) > 4, "they were drawn"
