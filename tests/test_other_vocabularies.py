"""Teacher and student whose vocabularies differ: padded heads, and whole other tokenizers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from limbeck.errors import DataError, UsageError
from test_pipeline import BUILD, TRAINING, tiny_recipe

STEPS = {
    **TRAINING,
    "steps": 40,
    "samples_per_step": 8,
    "samples_per_micro_batch": 3,
    "log_every": 1,
    "learning_rate": 3e-3,
}
ONE_STUDENT = {
    "seeds": [0],
    "evaluate__models": ["student"],
    "benchmark__models": None,
    "teacher": {
        "backend": "transformers",
        "build": {**BUILD, "tokenizer": "bpe"},
        "fine_tune": {"training": {**STEPS, "steps": 60}},  # or it would be sure of nothing
    },
    "label__limit": 16,
}
CROSSED = [{"kind": "cross_entropy"}, {"kind": "cross_tokenizer", "weight": 0.5}]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tests, so that the teacher is fine-tuned once."""
    return tmp_path_factory.mktemp("work")


def trained(work: Path, **changes: Any) -> Path:
    recipe = tiny_recipe(work, **{**ONE_STUDENT, **changes})
    student = pipeline.run(recipe, until="train").stages[-1]
    assert student["kind"] == "student"
    return Path(student["folder"])


def losses_of(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["losses"] for line in lines]


def test_another_tokenizer_is_refused_token_by_token_and_the_mend_works(work: Path) -> None:
    with pytest.raises(UsageError, match="use kind: cross_tokenizer") as raised:
        trained(work)
    assert "the tokenizers are not the same" in str(raised.value)

    folder = trained(work, losses=CROSSED[1:], training=STEPS)
    values = [row["cross_tokenizer"] for row in losses_of(folder)]
    assert all(0 < value <= 2 for value in values)
    assert sum(values[-5:]) < 0.8 * sum(values[:5])

    facts = json.loads((folder / "MANIFEST.json").read_text())["summary"]["preflight"]
    assert facts["shared_vocabulary"] is None
    assert "answer tokens of the student (other tokenizer)" in facts["aligned_spans"]


def test_a_live_teacher_with_another_tokenizer_gives_the_losses_of_a_full_cache(
    work: Path,
) -> None:
    rows = [
        losses_of(
            trained(
                work,
                losses=CROSSED,
                training={**STEPS, "steps": 4},
                label__signal=signal,
                label__top_k=512,
            )
        )
        for signal in ("top_k", "live")
    ]
    for cached, live in zip(*rows, strict=True):
        assert cached == pytest.approx(live, rel=1e-4)


def test_micro_batches_change_no_loss_across_tokenizers(work: Path) -> None:
    rows = [
        losses_of(
            trained(
                work,
                losses=CROSSED,
                training={**STEPS, "steps": 3, "samples_per_micro_batch": size},
            )
        )
        for size in (8, 1)
    ]
    for together, alone in zip(*rows, strict=True):
        assert together == pytest.approx(alone, rel=1e-4)


def test_a_cache_of_another_answer_is_refused_across_tokenizers(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limbeck.data import spans
    from limbeck.training import alignment

    def cut_wrongly(tokenizer: Any, answer: str, **frame: Any) -> spans.Cut:
        found = spans.cut_answer(tokenizer, answer, **frame)
        is_student = len(tokenizer) < 200
        return found if is_student else spans.Cut((found.ids[1], *found.ids[1:]), found.ends)

    monkeypatch.setattr(alignment, "cut_answer", cut_wrongly)
    with pytest.raises(DataError, match="answer token 0 is"):
        trained(work, losses=CROSSED)


@pytest.mark.parametrize("signal", ["top_k", "live"])
def test_heads_padded_to_different_sizes_train_without_a_warning(
    work: Path, capfd: pytest.CaptureFixture[str], signal: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        folder = trained(
            work,
            teacher={"backend": "transformers", "build": {**BUILD, "vocabulary_rows": 640}},
            student={"build": {**BUILD, "layers": 1, "vocabulary_rows": 576}},
            losses=[{"kind": "divergence"}],
            training=STEPS,
            label__signal=signal,
        )
    values = [row["divergence_forward"] for row in losses_of(folder)]
    assert sum(values[-5:]) < 0.9 * sum(values[:5])
    said = "".join(capfd.readouterr())
    assert "teacher has 640 rows, student 576" in said
    assert "padding rows dropped" in said
    assert "warning" not in said.lower()
