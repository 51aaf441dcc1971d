"""The guard against distilling a model that never sees the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.data.tokens import Encoded, Encoder, collate
from limbeck.errors import UsageError
from limbeck.records import IGNORED, Sample

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.models.load import LoadedModel

SMALLEST_MOVE = 1e-6
"""Relative to the largest logit; below it nothing but rounding can have changed."""


def check_image_sensitivity(
    loaded: LoadedModel, sample: Sample, data_folder: Path, answer: str
) -> float:
    """As `check_moves`, of a model in this process."""
    logits_of = partial(_answer_logits, loaded)
    return check_moves(logits_of, loaded.encoder, sample, data_folder, answer)


def check_moves(
    logits_of: Callable[[Encoded], Tensor],
    encoder: Encoder,
    sample: Sample,
    data_folder: Path,
    answer: str,
) -> float:
    """Blank the pictures of one sample and see that the logits of its answer move.

    Args:
        logits_of: the logits along an encoded sample's answer, of teacher or student.
        encoder: makes its input.
        sample: one with pictures.
        data_folder: where its pictures are.
        answer: any text; its logits are compared.

    Returns:
        The largest change of a logit.

    Raises:
        UsageError: no logit moved, so the pictures do not reach the model.
    """
    assert sample.images, "only a sample with pictures can show whether they are seen"
    seen = encoder.encode(sample, data_folder, answer)
    blank = encoder.encode(sample, data_folder, answer, blank_images=True)
    if _same_pictures(seen, blank):  # the sample's own pictures are blank
        inverted = {k: 1 - v if v.is_floating_point() else v for k, v in blank.features.items()}
        blank = replace(blank, features=inverted)
    logits_NR, blank_NR = (logits_of(item) for item in (seen, blank))
    move = (logits_NR - blank_NR).abs().max().item()
    if move <= SMALLEST_MOVE * logits_NR.abs().max().item():
        raise UsageError(
            "the pictures do not reach the model: blanking them changes no logit of the answer",
            where=sample.id,
            mend="check that the chat template has a place for images and that the processor"
            " and the model belong together",
        )
    return move


def _same_pictures(one: Encoded, other: Encoded) -> bool:
    return all(tensor.equal(other.features[name]) for name, tensor in one.features.items())


def _answer_logits(loaded: LoadedModel, item: Encoded) -> Tensor:
    import torch

    batch = collate([item], pad_id=loaded.encoder.pad_id, side="right")
    rows_BL = (batch.targets_BL != IGNORED).to(loaded.device)
    training = loaded.model.training
    loaded.model.eval()
    try:
        with torch.no_grad():
            return loaded.head(loaded.hidden_states(batch.inputs)[rows_BL]).float()
    finally:
        loaded.model.train(training)
