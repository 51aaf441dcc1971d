"""Which examples go into which step: a pure function of the seed, the lengths and the settings.

Because nothing else enters, a run that resumes at step s sees the very batches that it would have
seen, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.errors import DataError
from limbeck.recipe.sections import Training
from limbeck.records import Sample


@dataclass(frozen=True)
class Example:
    """One sequence to train on: a sample and an answer, and whose answer it is."""

    sample: Sample
    answer: str
    target: str


@dataclass(frozen=True)
class MicroBatch:
    """Indices of examples that go through the model together; all have one target.

    `counted` is False for a repeated micro-batch that only keeps this rank in step with others.
    """

    indices: tuple[int, ...]
    target: str
    counted: bool = True


def epochs_of_examples(count: int, seed: int, per_sample: Sequence[int]) -> Iterator[int]:
    """An endless stream of example indices, each epoch in a new order.

    `per_sample[i]` is the sample that example i belongs to: examples of one sample stay together.
    """
    groups: dict[int, list[int]] = {}
    for index in range(count):
        groups.setdefault(per_sample[index], []).append(index)
    members = list(groups.values())
    epoch = 0
    while True:
        for position in np.random.default_rng((seed, epoch)).permutation(len(members)):
            yield from members[position]
        epoch += 1


def plan_steps(
    examples: Sequence[Example], answer_tokens: Sequence[int], training: Training, seed: int
) -> list[list[int]]:
    """The example indices of every optimiser step.

    Args:
        examples: what there is to train on.
        answer_tokens: supervised tokens of each example.
        training: sizes of steps and their number.
        seed: of the order.

    Raises:
        DataError: there is nothing to train on.
    """
    if not examples:
        raise DataError(
            "no valid labelled sample to train on",
            where="training",
            mend="look at the label stage's unfit reasons",
        )
    numbers: dict[str, int] = {}
    per_sample = [numbers.setdefault(e.sample.id, len(numbers)) for e in examples]
    targets = len({example.target for example in examples})
    stream = epochs_of_examples(len(examples), seed, per_sample)
    total = None if training.epochs is None else int(np.ceil(len(examples) * training.epochs))
    steps: list[list[int]] = []
    taken = 0
    while training.steps is None or len(steps) < training.steps:
        if total is not None and taken >= total:
            break
        step: list[int] = []
        size = 0
        while size < (training.tokens_per_step or training.samples_per_step or 1):
            index = next(stream)
            step.append(index)
            # A sample that is trained on two answers still counts as one sample of the step.
            size = size + answer_tokens[index] if training.tokens_per_step else len(step) // targets
            taken += 1
            if total is not None and taken >= total:
                break
        steps.append(step)
    return steps


def micro_batches(
    step: Sequence[int],
    examples: Sequence[Example],
    lengths: Sequence[int],
    *,
    size: int,
    rank: int = 0,
    ranks: int = 1,
) -> list[MicroBatch]:
    """A rank's share of a step, in micro-batches of similar length and of one target.

    Every rank gets the same number of micro-batches, since gradients are exchanged after the last.
    """
    shares = [_chunks(step[r::ranks], examples, lengths, size) for r in range(ranks)]
    longest = max(len(share) for share in shares)
    own = shares[rank] or _chunks(step[:1], examples, lengths, size)[:1]
    if not shares[rank]:
        own = [MicroBatch(own[0].indices, own[0].target, counted=False)]
    while len(own) < longest:
        own.append(MicroBatch(own[-1].indices, own[-1].target, counted=False))
    return own


def _chunks(
    share: Sequence[int], examples: Sequence[Example], lengths: Sequence[int], size: int
) -> list[MicroBatch]:
    made: list[MicroBatch] = []
    for target in sorted({examples[i].target for i in share}):
        ordered = sorted(
            (i for i in share if examples[i].target == target), key=lambda i: (-lengths[i], i)
        )
        made += [
            MicroBatch(tuple(ordered[s : s + size]), target) for s in range(0, len(ordered), size)
        ]
    return made
