"""Which examples go into which step: a pure function of the seed, the lengths and the settings.

Because nothing else enters, a run that resumes at step s sees the very batches that it would have
seen, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.data.packing import pictures_of, whole_groups
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


def kinds_of(examples: Sequence[Example], share_prefix: bool) -> list[Hashable]:
    """What stays together: the examples of one sample, or of samples on the same pictures."""
    return [pictures_of(e.sample) if share_prefix else e.sample.id for e in examples]


def epochs_of_examples(count: int, seed: int, kinds: Sequence[Hashable]) -> Iterator[int]:
    """An endless stream of example indices, each epoch in a new order; one kind stays together."""
    groups: dict[Hashable, list[int]] = {}
    for index in range(count):
        groups.setdefault(kinds[index], []).append(index)
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
    targets = len({example.target for example in examples})
    kinds = kinds_of(examples, training.share_prefix)
    stream = epochs_of_examples(len(examples), seed, kinds)
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
    share_prefix: bool = False,
) -> list[MicroBatch]:
    """A rank's share of a step, in micro-batches of similar length and of one target.

    Every rank gets the same number of micro-batches, since gradients are exchanged after the last.
    With `share_prefix`, examples on the same pictures are on one rank, and neighbours in one
    micro-batch if it holds them.
    """
    if share_prefix:
        dealt = _dealt_by_pictures(step, examples, ranks)
    else:
        dealt = [list(step[r::ranks]) for r in range(ranks)]
    shares = [_chunks(share, examples, lengths, size, share_prefix) for share in dealt]
    longest = max(len(share) for share in shares)
    own = shares[rank] or _chunks(step[:1], examples, lengths, size, share_prefix)[:1]
    if not shares[rank]:
        own = [MicroBatch(own[0].indices, own[0].target, counted=False)]
    while len(own) < longest:
        own.append(MicroBatch(own[-1].indices, own[-1].target, counted=False))
    return own


def _chunks(
    share: Sequence[int],
    examples: Sequence[Example],
    lengths: Sequence[int],
    size: int,
    share_prefix: bool,
) -> list[MicroBatch]:
    def kind_of(index: int) -> Hashable:
        return pictures_of(examples[index].sample) if share_prefix else index

    made: list[MicroBatch] = []
    for target in sorted({examples[i].target for i in share}):
        own = sorted(i for i in share if examples[i].target == target)
        batches = whole_groups(own, kind_of, lengths, size)
        made += [MicroBatch(tuple(batch), target) for batch in batches]
    return made


def _dealt_by_pictures(
    step: Sequence[int], examples: Sequence[Example], ranks: int
) -> list[list[int]]:
    """The step dealt out to ranks, what shares pictures always to one: the one that has least."""
    kinds: dict[Hashable, list[int]] = {}
    for index in step:
        kinds.setdefault(pictures_of(examples[index].sample), []).append(index)
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for members in kinds.values():
        min(dealt, key=len).extend(members)
    return dealt
