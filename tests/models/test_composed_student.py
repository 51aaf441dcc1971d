"""A student made of a vision encoder and a language model goes through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

from test_compose import TEXT_ONLY, language, siglip
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

from limbeck import pipeline
from test_pipeline import tiny_recipe


def test_a_composed_student_is_trained_and_evaluated(tmp_path: Path) -> None:
    siglip(tmp_path / "vision")
    language(tmp_path / "language", "Qwen2", template=TEXT_ONLY, spare_rows=2, tied=True)
    parts = {"vision": str(tmp_path / "vision"), "language": str(tmp_path / "language")}
    changes = {
        "student": {"compose": parts, "freeze": ["vision_tower"]},
        "losses": [{"kind": "cross_entropy"}],
        "label__signal": "none",
        "seeds": [0],
        "evaluate__models": ["student", "baseline"],
        "benchmark__models": None,
    }
    result = pipeline.run(tiny_recipe(tmp_path / "work", **changes), until="evaluate")
    student = next(r["folder"] for r in result.stages if r["title"] == "student-seed0")
    model = AutoModelForImageTextToText.from_pretrained(Path(student) / "student")
    assert isinstance(model, LlavaForConditionalGeneration)
    assert result.stages[-1]["kind"] == "evaluation"
