"""What models answer without looking: blanked pictures, and the most frequent answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.data.samples import read_samples
from limbeck.errors import DataError
from limbeck.evaluate.most_frequent import most_frequent
from limbeck.evaluate.predict import predict, read_predictions
from limbeck.recipe.sections import Evaluation
from limbeck.records import Sample
from limbeck.teachers.transformers import Transformers


def test_blanked_predictions_do_not_depend_on_the_picture(
    screens: Path, tiny_model: Path, tmp_path: Path
):
    first, second = read_samples(screens, "train", 2)
    pair = [first, replace(first, id="other", images=second.images)]
    settings = Evaluation(max_new_tokens=6, batch_size=1)

    def answers(output: Path, samples: list[Sample], blank: bool) -> list[str]:
        predict(
            output,
            model=Transformers(model=str(tiny_model)),
            samples=samples,
            data=screens,
            settings=settings,
            device="cpu",
            blank_pictures=blank,
        )
        assert sorted(path.name for path in output.iterdir()) == ["predictions.jsonl"]
        return [one.text for one in read_predictions(output, "x")]

    without = answers(tmp_path / "blank", pair, True)
    assert without[0] == without[1]
    assert [one.sample_id for one in read_predictions(tmp_path / "blank", "x")] == [
        *(first.id, "other")
    ]


def sample(name: str, answer: str, **metadata: str) -> Sample:
    return Sample(name, "train", (), references=(answer,) if answer else (), metadata=metadata)


def guesses(output: Path, samples: list[Sample], known: list[Sample]) -> dict[str, str]:
    most_frequent(output, samples=samples, known=known)
    rows = map(json.loads, (output / "predictions.jsonl").read_text().splitlines())
    return {row["id"]: row["prediction"] for row in rows}


def test_the_most_frequent_answer_is_that_of_the_question_type(tmp_path: Path):
    known = [sample(f"k{i}", text, question_type="counting") for i, text in enumerate("1223")]
    known += [sample(f"c{i}", text, category="colour") for i, text in enumerate(["red"] * 5)]
    asked = [
        sample("a", "9", question_type="counting"),
        sample("b", "9", category="colour"),
        sample("c", "9", question_type="never seen"),
        sample("d", ""),
    ]
    assert guesses(tmp_path, asked, known) == {"a": "2", "b": "red", "c": "red", "d": "red"}


def test_of_equal_counts_the_first_in_the_alphabet_wins(tmp_path: Path):
    known = [sample("1", "left"), sample("2", "far"), sample("3", "left"), sample("4", "far")]
    assert guesses(tmp_path, known[:1], known) == {"1": "far"}


def test_without_gold_answers_there_is_no_most_frequent_one(tmp_path: Path):
    with pytest.raises(DataError, match="no training sample has a gold answer"):
        guesses(tmp_path, [sample("1", "x")], [sample("2", "")])
