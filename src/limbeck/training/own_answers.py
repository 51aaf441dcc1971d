"""On-policy distillation: the student writes answers, and the live teacher scores them.

Losses with `target: student` are computed on what the student itself would say, so that it learns
in the states that it gets into (GKD, Agarwal et al. 2024, "On-Policy Distillation of Language
Models").
The answers of a window of `refresh_every` steps are written at its beginning, with the weights of
that moment; no gradient runs through the writing, and the prompt is never in the loss.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from limbeck.data.packing import pictures_of, whole_groups
from limbeck.training.batches import Example
from limbeck.training.examples import EncodedExamples
from limbeck.training.job import Job

TARGET = "student"


def drawn_steps(
    steps: Sequence[Sequence[int]], examples: Sequence[Example], fraction: float, seed: int
) -> list[list[int]]:
    """The steps with only a `fraction` of their student-written examples, drawn by seed.

    A step that would be left empty keeps its first example.
    """
    kept: list[list[int]] = []
    for number, step in enumerate(steps):
        draws = np.random.default_rng((seed, 1, number)).random(len(step))
        rest = [
            index
            for index, draw in zip(step, draws, strict=True)
            if examples[index].target != TARGET or draw < fraction
        ]
        kept.append(rest or list(step[:1]))
    return kept


class OwnAnswers:
    """Keeps the student-written answers of the current window of steps."""

    def __init__(
        self,
        job: Job,
        encoded: EncodedExamples,
        steps: Sequence[Sequence[int]],
        accelerator: Accelerator,
    ) -> None:
        self._job, self._encoded, self._steps = job, encoded, steps
        self._accelerator = accelerator
        self._window: dict[int, str] = {}

    def refresh(self, step: int, batch_size: int) -> None:
        """At the beginning of a window, write the answers of its steps; ranks share the work."""
        settings = self._job.training.on_policy
        if step % settings.refresh_every:
            return
        window = self._steps[step : step + settings.refresh_every]
        indices = sorted({i for one in window for i in one if self._is_own(i)})
        if not indices:
            return
        written: list[tuple[int, str]] = []
        for batch in self._batches(indices, batch_size):
            with self._accelerator.autocast():
                answers = self._job.student.generate(
                    [self._encoded[index] for index in batch],
                    max_new_tokens=settings.max_new_tokens,
                    temperature=settings.temperature,
                    share_prefix=self._job.training.share_prefix,
                    seed=int(
                        np.random.default_rng((self._job.seed, 2, step, batch[0])).integers(2**31)
                    ),
                )
            written += [(i, answer.text) for i, answer in zip(batch, answers, strict=True)]
        if self._accelerator.num_processes > 1:
            written = gather_object(written)
        self.restore(dict(sorted(written)))

    def _batches(self, indices: Sequence[int], size: int) -> list[list[int]]:
        """This rank's, with neighbours on the same pictures where they share a beginning."""
        rank, ranks = self._accelerator.process_index, self._accelerator.num_processes
        if not self._job.training.share_prefix:
            share = list(indices[rank::ranks])
            return [share[start : start + size] for start in range(0, len(share), size)]

        def kind_of(index: int) -> Hashable:
            return pictures_of(self._job.examples[index].sample)

        return whole_groups(indices, kind_of, self._encoded.expected_lengths, size)[rank::ranks]

    def restore(self, answers: Mapping[int, str]) -> None:
        """Take the answers of a window, for example those that a checkpoint kept."""
        self._window = dict(answers)
        for index, text in self._window.items():
            self._encoded.set_answer(index, text)
            self._job.own_answers[self._job.examples[index].sample.id] = text

    def state(self) -> dict[str, str]:
        """The window's answers, for the checkpoint."""
        return {str(index): text for index, text in self._window.items()}

    def _is_own(self, index: int) -> bool:
        return self._job.examples[index].target == TARGET
