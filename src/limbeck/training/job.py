"""What a training run is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.losses import Loss
from limbeck.recipe.sections import Training
from limbeck.signals import SignalSource
from limbeck.training.batches import Example

if TYPE_CHECKING:
    from limbeck.models.load import LoadedModel
    from limbeck.models.vocabulary import Vocabulary


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
