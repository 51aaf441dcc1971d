"""Vision features in one byte a value: x[t, h] = step[t] * scale[h] * code[t, h].

scale[h] is the root mean square of channel h over the tokens that are coded together: some channels
of a projector are a hundred times larger than others. step[t] makes the largest code of token t
127: a few tokens are that much larger, too, and only they are coded more coarsely for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127
_SMALLEST = 1e-30


@dataclass(frozen=True)
class CodingError:
    """Sums over values: of the squares of what was coded, and of the squares of what was lost."""

    squares: float
    lost: float

    @property
    def relative(self) -> float:
        """Root of the lost share."""
        return (self.lost / self.squares) ** 0.5 if self.squares else 0.0

    def __add__(self, other: CodingError) -> CodingError:
        return CodingError(self.squares + other.squares, self.lost + other.lost)


NO_ERROR = CodingError(0.0, 0.0)


def channel_scales(pieces: Sequence[Tensor]) -> Tensor:
    """Root mean square of each channel [H] over the rows of all pieces [T, H]."""
    rows = sum(len(piece) for piece in pieces)
    sums_H = torch.stack([piece.float().square().sum(0) for piece in pieces]).sum(0)
    return (sums_H / max(rows, 1)).sqrt().clamp(min=_SMALLEST)


def encode(rows_TH: Tensor, scales_H: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [T, H] (int8) and steps [T] (float32)."""
    scaled_TH = rows_TH.float() / scales_H
    steps_T = (scaled_TH.abs().amax(-1) / LARGEST).clamp(min=_SMALLEST)
    codes_TH = (scaled_TH / steps_T[:, None]).round().clamp(-LARGEST, LARGEST)
    return codes_TH.to(torch.int8), steps_T


def decode(codes_TH: Tensor, steps_T: Tensor, scales_H: Tensor, dtype: torch.dtype) -> Tensor:
    """What was coded, as nearly as the codes have it [T, H]."""
    return (codes_TH.float() * steps_T[:, None] * scales_H).to(dtype)


def coding_error(rows_TH: Tensor, decoded_TH: Tensor) -> CodingError:
    """What a coding lost of these rows."""
    exact = rows_TH.double()
    lost = (exact - decoded_TH.double()).square().sum()
    return CodingError(float(exact.square().sum()), float(lost))
