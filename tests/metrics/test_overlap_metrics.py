"""BLEU, chrF, ROUGE-L and CIDEr-D against other ways to compute the same number."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import sacrebleu

from limbeck.metrics.bleu import Bleu, sacrebleu_signature
from limbeck.metrics.chrf import Chrf
from limbeck.metrics.cider_d import CiderD
from limbeck.metrics.rouge_l import RougeL, longest_common_subsequence

TEXT = "a the red green cat dog sits runs on under table, mat. button; Settings menu"
WORDS = TEXT.split()


def captions(seed: int, n: int = 30) -> tuple[list[str], list[list[str]]]:
    """Random captions, some empty or of one word, with one to four references each."""
    draw = random.Random(seed)

    def caption(shortest: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(shortest, 9)))

    return (
        [caption(0) for _ in range(n)],
        [[caption(1) for _ in range(draw.randint(1, 4))] for _ in range(n)],
    )


def streams(references: list[list[str]]) -> list[list[str | None]]:
    """References as sacrebleu wants them: the k-th of every sample, None where there is none."""
    most = max(map(len, references))
    return [[own[k] if k < len(own) else None for own in references] for k in range(most)]


@pytest.mark.parametrize("seed", range(5))
def test_bleu_of_sacrebleu_equals_sacrebleu_with_any_number_of_references(seed: int) -> None:
    predictions, references = captions(seed)
    theirs = sacrebleu.BLEU()
    expected = theirs.corpus_score(predictions, streams(references)).score
    result = Bleu(implementation="sacrebleu").compute(predictions, references)
    assert result.value * 100 == pytest.approx(expected, rel=1e-12)
    assert Bleu().compute(predictions, references).details["sacrebleu"] == pytest.approx(expected)
    assert str(theirs.get_signature()) == sacrebleu_signature()


@pytest.mark.parametrize(
    "predictions",
    [
        ["red"],
        ["a red"],
        ["the the the the cat"],
        ["zzz qqq xxx yyy www"],
        ["a red dog runs"],
        [""],
    ],
)
def test_bleu_smoothing_equals_sacrebleu_where_orders_have_no_match(predictions: list[str]) -> None:
    references = [["a red cat sits on the mat"]]
    expected = sacrebleu.BLEU().corpus_score(predictions, [references[0]]).score
    found = Bleu(implementation="sacrebleu").compute(predictions, references).value
    assert found * 100 == pytest.approx(expected)


def test_bleu_takes_the_shorter_of_two_equally_close_references() -> None:
    result = Bleu().compute(["a b c d e"], [["a b c", "a b c d e f g"]])
    assert result.statistics_nd[0, 1] == 3


@pytest.mark.parametrize("seed", range(5))
def test_chrf_equals_sacrebleu(seed: int) -> None:
    predictions, references = captions(seed)
    theirs = sacrebleu.CHRF()
    expected = theirs.corpus_score(predictions, streams(references)).score
    metric = Chrf()
    result = metric.compute(predictions, references)
    assert result.value == pytest.approx(expected, rel=1e-12)
    assert str(theirs.get_signature()) in metric.signature
    for text, own, value in zip(predictions, references, result.per_sample, strict=True):
        assert value == pytest.approx(sacrebleu.CHRF().sentence_score(text, own).score)


def table_lcs(first: list[str], second: list[str]) -> int:
    rows = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, left in enumerate(first):
        for j, right in enumerate(second):
            longer = max(rows[i][j + 1], rows[i + 1][j])
            rows[i + 1][j + 1] = rows[i][j] + 1 if left == right else longer
    return rows[-1][-1]


def test_the_bit_parallel_subsequence_is_as_long_as_that_of_the_table() -> None:
    draw = random.Random(0)
    for _ in range(500):
        first, second = (draw.choices("abcd", k=draw.randint(0, 90)) for _ in range(2))
        assert longest_common_subsequence(first, second) == table_lcs(first, second)


def test_rouge_l_takes_best_precision_and_best_recall_from_different_references() -> None:
    # Precision 3/3 with the first, recall 2/2 with the second: neither alone has both.
    [value] = RougeL().compute(["a red cat"], [["a red cat on mats", "red cat"]]).per_sample
    assert value == pytest.approx(1.0)
    [value] = RougeL().compute(["a red cat"], [["a blue cat sits there"]]).per_sample
    precision, recall = 2 / 3, 2 / 5
    assert value == pytest.approx(2.44 * precision * recall / (recall + 1.44 * precision))


def direct_cider_d(predictions: list[str], references: list[list[str]]) -> list[float]:
    """The definition written out over all n-grams, without any short cut."""

    def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
        tokens = [word.strip(".,;").lower() for word in text.split()]
        return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

    def weight(gram: tuple[str, ...], n: int) -> float:
        df = sum(any(gram in grams(text, n) for text in own) for own in references)
        return math.log(len(references)) - math.log(max(1, df))

    scores = []
    for text, own in zip(predictions, references, strict=True):
        total = 0.0
        for reference in own:
            delta = grams(text, 2).total() - grams(reference, 2).total()
            for n in range(1, 5):
                ours = {g: c * weight(g, n) for g, c in grams(text, n).items()}
                theirs = {g: c * weight(g, n) for g, c in grams(reference, n).items()}
                dot = sum(min(w, theirs.get(g, 0)) * theirs.get(g, 0) for g, w in ours.items())
                norm = math.hypot(*ours.values()) * math.hypot(*theirs.values())
                total += (dot / norm if norm else 0) * math.exp(-(delta**2) / 72) / 4
        scores.append(10 * total / len(own))
    return scores


@pytest.mark.parametrize("seed", range(3))
def test_cider_d_equals_its_definition(seed: int) -> None:
    predictions, references = captions(seed, n=12)
    expected = direct_cider_d(predictions, references)
    assert CiderD().compute(predictions, references).per_sample == pytest.approx(expected)


def test_cider_d_of_one_sample_is_zero_as_in_the_reference_code() -> None:
    assert CiderD().compute(["a red cat sits"], [["a red cat sits"]]).value == 0
