"""Labels and predictions of questions on shared pictures: equal, together, or with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data.labels import read_labels
from limbeck.data.samples import read_samples
from limbeck.evaluate.predict import PREDICTIONS, predict
from limbeck.labelling import label
from limbeck.models.load import LoadedModel, load_model
from limbeck.recipe.sections import Evaluation, Labelling, ModelSection
from limbeck.records import Sample
from limbeck.signals.reader import SignalReader
from limbeck.teachers import Decoding, OpenTeacher, batches_by_length
from limbeck.teachers.transformers import Transformers

QUESTIONS = ("What is on the screen?", "Which app is it?", "Two words in the middle?", "Where?")


@pytest.fixture(scope="session")
def talkative(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose answers have several tokens and depend on picture and question."""
    loaded = load_model(ModelSection(model=str(tiny_model)), device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    folder = tmp_path_factory.mktemp("talkative") / "model"
    loaded.save(folder)
    return folder


@pytest.fixture
def samples(screens: Path) -> list[Sample]:
    """Four questions on the first picture, two on the second, one on the third, interleaved."""
    made: list[Sample] = []
    for n, question in enumerate(QUESTIONS):
        for sample, count in zip(read_samples(screens, "train", 3), (4, 2, 1), strict=True):
            parts = [{"type": "image"}, {"type": "text", "text": question}]
            message = {"role": "user", "content": parts}
            if n < count:
                made.append(replace(sample, id=f"{sample.id}-{n}", messages=(message,)))
    return made


@pytest.fixture
def towers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Patches of pictures that were handed to a model, call by call."""
    seen: list[int] = []
    real = LoadedModel.place

    def place(self: LoadedModel, inputs: dict[str, Any]) -> dict[str, Any]:
        seen.append(len(inputs.get("pixel_values", ())))
        return real(self, inputs)

    monkeypatch.setattr(LoadedModel, "place", place)
    return seen


def sharing(session: OpenTeacher, samples: list[Sample]) -> OpenTeacher:
    assert session.share_prefixes(samples) is None
    return session


def test_a_teacher_answers_and_scores_as_it_does_apart(
    talkative: Path, screens: Path, samples: list[Sample], towers: list[int]
) -> None:
    teacher = Transformers(model=str(talkative))
    plain = teacher.open(screens, device="cpu")
    shared = sharing(teacher.open(screens, device="cpu"), samples)
    (batch,) = batches_by_length(plain, samples, 8, together=True)
    for decoding in (Decoding(12), Decoding(12, temperature=1.0, seed=3)):
        expected = plain.generate(batch, decoding)
        assert shared.generate(batch, decoding) == expected
        assert len({answer.text for answer in expected}) > 4
    answers = [answer.text for answer in plain.generate(batch, Decoding(12))]
    pairs = zip(shared.score(batch, answers), plain.score(batch, answers), strict=True)
    for own, theirs in pairs:
        assert own.answer_ids == theirs.answer_ids
        torch.testing.assert_close(own.logits_NV, theirs.logits_NV, rtol=0, atol=1e-4)
        torch.testing.assert_close(own.hidden_NH, theirs.hidden_NH, rtol=0, atol=1e-5)
    costs: list[tuple[int, int]] = []
    for session in (plain, shared):
        del towers[:]
        session.generate(batch, Decoding(2))
        generated = sum(towers)
        session.score(batch, answers)
        costs.append((generated, sum(towers) - generated))
    assert costs[0] == (7 * costs[1][0] / 3, 7 * costs[1][1] / 3), "7 questions on 3 pictures"


def run_label(
    folder: Path, teacher: Transformers, screens: Path, samples: list[Sample], **settings: Any
) -> dict[str, Any]:
    folder.mkdir()
    values = {"batch_size": 4, "top_k": 4, "max_new_tokens": 12, "share_prefix": True, **settings}
    values["checks"] = {"max_unfit_share": 0.9, "must_finish": False}
    return label(
        folder,
        teacher=teacher,
        samples=samples,
        data=screens,
        settings=Labelling.model_validate(values),
        key={"teacher": "test"},
        device="cpu",
    )


def test_labels_and_signals_are_those_of_prompts_apart(
    talkative: Path, screens: Path, samples: list[Sample], tmp_path: Path
) -> None:
    teacher = Transformers(model=str(talkative))
    for share_prefix in (False, True):
        folder = tmp_path / str(share_prefix)
        summary = run_label(folder, teacher, screens, samples, share_prefix=share_prefix)
        assert summary.get("shared_prefix") == ("computed once" if share_prefix else None)
    apart, together = (read_labels(tmp_path / str(share)) for share in (False, True))
    assert [row.text for row in together] == [row.text for row in apart]
    encoder = load_model(ModelSection(model=str(talkative)), device="cpu").encoder
    readers = [SignalReader(tmp_path / str(s), {"teacher": "test"}) for s in (False, True)]
    for row in (row for row in apart if row.valid):
        ids = encoder.answer_tokens(row.text)
        own, theirs = (reader.get(row.sample_id, ids) for reader in readers)
        assert torch.equal(own.ids_NK.sort().values, theirs.ids_NK.sort().values)
        torch.testing.assert_close(own.log_sums_NT, theirs.log_sums_NT, rtol=0, atol=1e-4)


def run_predict(
    folder: Path, teacher: Transformers, screens: Path, samples: list[Sample], **settings: Any
) -> tuple[dict[str, Any], list[Any]]:
    values = {"batch_size": 3, "max_new_tokens": 12, "share_prefix": True, **settings}
    evaluation = Evaluation.model_validate(values)
    summary = predict(
        folder, model=teacher, samples=samples, data=screens, settings=evaluation, device="cpu"
    )
    lines = (folder / PREDICTIONS).read_text().splitlines()
    return summary, [json.loads(line)["prediction"] for line in lines]


def test_predictions_are_those_of_prompts_apart(
    talkative: Path, screens: Path, samples: list[Sample], tmp_path: Path
) -> None:
    teacher = Transformers(model=str(talkative))
    plain = run_predict(tmp_path / "a", teacher, screens, samples, share_prefix=False)
    shared = run_predict(tmp_path / "b", teacher, screens, samples)
    assert plain[0] == {"predictions": 7}
    assert shared[0] == {"predictions": 7, "shared_prefix": "computed once"}
    assert shared[1] == plain[1]


def test_a_model_that_cannot_share_says_why_and_answers_all_the_same(
    talkative: Path,
    screens: Path,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher = Transformers(model=str(talkative))
    _, expected = run_predict(tmp_path / "a", teacher, screens, samples, share_prefix=False)
    reason = "models of type test have layers of type sliding_attention"
    monkeypatch.setattr("limbeck.models.shared_prefix.why_not_packed", lambda *_: reason)
    monkeypatch.setattr("limbeck.models.generation.prefilled", None)
    summary, texts = run_predict(tmp_path / "b", teacher, screens, samples)
    assert summary["shared_prefix"] == reason
    assert texts == expected
    assert f"computed from its beginning: {reason}" in capsys.readouterr().err


def test_pictures_of_their_own_share_nothing(talkative: Path, screens: Path) -> None:
    session = Transformers(model=str(talkative)).open(screens, device="cpu")
    apart = read_samples(screens, "train", 4)
    assert session.share_prefixes(apart) == "no two samples show the same pictures"


def test_a_served_teacher_leaves_it_to_the_server(samples: list[Sample]) -> None:
    assert "server" in str(OpenTeacher().share_prefixes(samples))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_batches_keep_pictures_together(
    talkative: Path, screens: Path, samples: list[Sample], size: int
) -> None:
    session = Transformers(model=str(talkative)).open(screens, device="cpu")
    key: Callable[[Sample], str] = lambda sample: sample.images[0].sha256  # noqa: E731
    batches = list(batches_by_length(session, samples, size, together=True))
    assert sorted(s.id for b in batches for s in b) == sorted(s.id for s in samples)
    assert all(len(batch) <= size for batch in batches)
    for picture, count in {key(s): sum(key(t) == key(s) for t in samples) for s in samples}.items():
        holding = [batch for batch in batches if picture in map(key, batch)]
        assert len(holding) == -(-count // size)
    assert batches == list(batches_by_length(session, samples, size, together=True))
