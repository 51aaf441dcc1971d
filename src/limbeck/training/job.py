"""What a training run is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.losses import Loss
from limbeck.recipe.sections import Training
from limbeck.signals import SignalSource
from limbeck.signals.features import FeatureSource
from limbeck.training.batches import Example

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.load import LoadedModel
    from limbeck.models.vocabulary import Vocabulary


@dataclass(frozen=True)
class TeacherFacts:
    """What is shown of the teacher before its student is trained.

    `live_memory` says what a teacher that runs beside the student takes; None for a cached one.
    """

    visual_tokens_mean: float | None
    live_memory: str | None = None


@dataclass
class Job:
    """One training run: `student` is trained in place on `examples` and writes into `output`."""

    output: Path
    student: LoadedModel
    vocabulary: Vocabulary
    examples: Sequence[Example]
    data: Path
    losses: Sequence[Loss]
    training: Training
    seed: int
    title: str
    signals: SignalSource | None = None
    features: FeatureSource | None = None
    """The teacher's inner states, where some loss compares them."""
    verbalisers: nn.Module | None = None
    """What a loss that needs them trains beside the student."""
    own_answers: dict[str, str] = field(default_factory=lambda: {})
    """What the student itself last wrote, by sample id; shared with a live teacher's signals."""
    spans: Sequence[int] | None = None
    """Of each example: spans of text on which two different tokenizers agree; None where the
    teacher's rows line up with the student's."""
