"""What a round labels, and what of its answers is trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data.labels import read_labels
from limbeck.data.samples import read_samples
from limbeck.errors import DataError, UsageError
from limbeck.labelling import label
from limbeck.labelling.rounds import grown_labels, portion
from limbeck.recipe.growth import Grow, Keep
from limbeck.recipe.sections import Labelling
from limbeck.records import Dense, Label, Sample
from limbeck.teachers import Answer, Decoding, OpenTeacher, ScoredAnswer


def pool(count: int, start: int = 0) -> list[Sample]:
    return [Sample(f"s{number}", "unlabelled", ()) for number in range(start, start + count)]


def ids(samples: list[Sample]) -> set[str]:
    return {sample.id for sample in samples}


def test_parts_are_disjoint_until_the_pool_is_used_up() -> None:
    grow = Grow(samples_per_round=4)
    parts = [ids(portion(pool(10), [], grow, number)) for number in (2, 3, 4)]
    assert [len(part) for part in parts] == [4, 4, 4]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1] | parts[2]) == 10
    assert len(parts[2] & parts[0]) == 2, "it starts over"
    assert ids(portion(pool(10)[::-1], [], grow, 2)) == parts[0], "whatever the order of the file"
    assert ids(portion(pool(10), [], Grow(samples_per_round=4, seed=1), 2)) != parts[0]
    assert len(portion(pool(10), [], Grow(), 3)) == 10


def test_samples_of_the_first_labels_are_not_in_the_pool() -> None:
    assert ids(portion(pool(10), pool(7), Grow(), 2)) == {"s7", "s8", "s9"}
    with pytest.raises(UsageError, match="no samples beside those of the first labels"):
        portion(pool(3), pool(3), Grow(), 2)
    with pytest.raises(UsageError, match="labels 4 samples, and the pool has 3"):
        portion(pool(3), [], Grow(samples_per_round=4), 2)


def labels(*confidences: float | None, first: int = 0, unfit: int = 0) -> list[Label]:
    rows = [
        Label(f"s{first + number}", "text", True, mean_log_probability=confidence)
        for number, confidence in enumerate(confidences)
    ]
    return rows + [Label(f"u{number}", "", False, ("empty",)) for number in range(unfit)]


def test_the_most_confident_share_of_the_fit_answers_is_kept() -> None:
    rows = labels(-3.0, -1.0, -2.0, -4.0, unfit=4)
    grown = grown_labels([rows], 100, Grow(keep=Keep(share=0.5)))
    assert grown.chosen == [["s1", "s2"]]
    (fact,) = grown.facts
    assert (fact["labelled"], fact["fit"], fact["kept"], fact["trained_on"]) == (8, 4, 2, 2)
    assert fact["mean_log_probability"] == -2.5
    assert fact["mean_log_probability_kept"] == -1.5
    assert fact["least_log_probability_kept"] == -2.0


def test_a_least_confidence_and_a_share_hold_together() -> None:
    rows = labels(-3.0, -1.0, -2.0, -4.0)
    least = Keep(min_mean_log_probability=-3.0)
    assert grown_labels([rows], 100, Grow(keep=least)).chosen == [["s0", "s1", "s2"]]
    both = Keep(share=0.75, min_mean_log_probability=-1.5)
    assert grown_labels([rows], 100, Grow(keep=both)).chosen == [["s1"]]


def test_the_ratio_bounds_all_rounds_together_by_confidence() -> None:
    rounds = [labels(-1.0, -4.0), labels(-3.0, -2.0, first=10)]
    grown = grown_labels(rounds, 3, Grow(keep=None, ratio=0.7))
    assert grown.chosen == [["s0"], ["s11"]]
    assert [fact["trained_on"] for fact in grown.facts] == [1, 1]
    assert [fact["kept"] for fact in grown.facts] == [2, 2]


def test_the_latest_kept_answer_replaces_earlier_ones() -> None:
    rounds = [labels(-1.0, -1.0), labels(-2.0, -9.0)]
    keep = Keep(min_mean_log_probability=-5.0)
    grown = grown_labels(rounds, 100, Grow(keep=keep))
    assert grown.chosen == [["s1"], ["s0"]], "an unsure later answer replaces nothing"


def test_answers_without_confidence_need_no_threshold() -> None:
    rows = labels(None, None, None)
    assert grown_labels([rows], 2, Grow(keep=None)).chosen == [["s0", "s1"]]
    with pytest.raises(DataError, match="3 answers of round 2 have no log-probability"):
        grown_labels([rows], 2, Grow())


@pytest.mark.parametrize("can", [("score", "whole_distributions"), ("log_probabilities",), ()])
def test_answers_are_rated_where_confidence_is_asked_for(
    can: tuple[str, ...], screens: Path, tmp_path: Path
) -> None:
    samples = read_samples(screens, "train", 3)
    asked: list[Decoding] = []

    class Session(OpenTeacher):
        vocabulary_rows = None

        def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
            asked.append(decoding)
            known = -0.5 if decoding.top_log_probabilities else None
            return [Answer("text", 2, True, mean_log_probability=known) for _ in samples]

        def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
            assert "score" in can
            row = Dense(torch.tensor([[0.5, 0.5]]).log())
            return [ScoredAnswer((1,), row) for _ in samples]

        def visual_tokens(self, sample: Sample) -> None:
            return None

        def check_image_sensitivity(self, samples: Sequence[Sample]) -> None:
            pass

    class Fake:
        def capabilities(self) -> frozenset[str]:
            return frozenset(can)

        def open(self, data: Path, **_: Any) -> Session:
            return Session()

    def rated(*, confident: bool) -> set[float | None]:
        output = tmp_path / str(confident)
        label(
            output,
            teacher=Fake(),  # type: ignore[arg-type]
            samples=samples,
            data=screens,
            settings=Labelling(signal="none"),
            key={},
            device="cpu",
            confident=confident,
        )
        return {row.mean_log_probability for row in read_labels(output)}

    assert rated(confident=False) == {None}
    assert {one.top_log_probabilities for one in asked} == {0}
    expected = {"score": math.log(0.5), "log_probabilities": -0.5}
    (found,) = rated(confident=True)
    assert found == (pytest.approx(expected[can[0]]) if can else None)
