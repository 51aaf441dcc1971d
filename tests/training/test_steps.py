"""Steps and micro-batches are a pure function of seed, lengths and settings."""

from __future__ import annotations

from collections import Counter

import pytest

from limbeck.errors import DataError
from limbeck.recipe.sections import Training
from limbeck.records import Sample
from limbeck.training.batches import Example, micro_batches, plan_steps


def make_examples(count: int, targets: tuple[str, ...] = ("teacher",)) -> list[Example]:
    samples = [Sample(str(i), "train", ()) for i in range(count)]
    return [Example(sample, "x", target) for sample in samples for target in targets]


def test_every_example_is_seen_once_an_epoch() -> None:
    examples = make_examples(23)
    steps = plan_steps(examples, [1] * 23, Training(epochs=2, samples_per_step=4), seed=3)
    flat = [index for step in steps for index in step]
    assert len(flat) == 46
    assert sorted(flat[:23]) == sorted(flat[23:]) == list(range(23))
    assert flat[:23] != flat[23:], "each epoch has its own order"


def test_the_order_depends_on_the_seed_alone() -> None:
    examples, training = make_examples(40), Training(steps=30, samples_per_step=8)
    first = plan_steps(examples, [1] * 40, training, seed=1)
    assert first == plan_steps(examples, [1] * 40, training, seed=1)
    assert first != plan_steps(examples, [1] * 40, training, seed=2)
    assert len(first) == 30


def test_tokens_per_step_fills_every_step_to_the_budget() -> None:
    examples = make_examples(50)
    tokens = [1 + i % 7 for i in range(50)]
    steps = plan_steps(examples, tokens, Training(steps=20, tokens_per_step=30), seed=0)
    for step in steps:
        total = sum(tokens[i] for i in step)
        assert total >= 30
        assert total - tokens[step[-1]] < 30, "no step takes more than it needs"


def test_both_answers_of_a_sample_stay_in_one_step() -> None:
    examples = make_examples(12, ("gold", "teacher"))
    steps = plan_steps(examples, [1] * 24, Training(steps=6, samples_per_step=4), seed=0)
    for step in steps:
        assert len(step) == 8
        counts = Counter(examples[i].sample.id for i in step)
        assert set(counts.values()) == {2}


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_ranks_share_a_step_without_loss_or_repetition(ranks: int, count: int) -> None:
    examples = make_examples(count)
    lengths = [(i * 5) % 11 for i in range(count)]
    shares = [
        micro_batches(range(count), examples, lengths, size=3, rank=r, ranks=ranks)
        for r in range(ranks)
    ]
    assert len({len(share) for share in shares}) == 1, "all ranks take as many micro-batches"
    counted = [i for share in shares for m in share if m.counted for i in m.indices]
    assert sorted(counted) == list(range(count))


def test_a_micro_batch_has_one_target_and_similar_lengths() -> None:
    examples = make_examples(8, ("gold", "teacher"))
    lengths = list(range(16))
    made = micro_batches(range(16), examples, lengths, size=4)
    for micro_batch in made:
        assert {examples[i].target for i in micro_batch.indices} == {micro_batch.target}
        own = [lengths[i] for i in micro_batch.indices]
        assert own == sorted(own, reverse=True)


def test_nothing_to_train_on_is_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="no valid labelled sample"):
        plan_steps([], [], Training(), seed=0)
