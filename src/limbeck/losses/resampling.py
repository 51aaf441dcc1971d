"""From one grid of visual tokens to another."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from limbeck.errors import UsageError
from limbeck.records import Grid

if TYPE_CHECKING:
    from torch import Tensor

WHERE = "losses: grids of visual tokens"


def resampled(
    features_TC: Tensor,
    grids: tuple[Grid, ...] | None,
    wanted: tuple[Grid, ...] | None,
    wanted_tokens: int,
) -> Tensor:
    """Features of a sample's pictures on the grids of another model [wanted tokens, C].

    Linear interpolation between the tokens' centres; outside the outermost centres the outermost
    value is taken. Equal grids give the features back unchanged.

    Args:
        features_TC: the tokens of all pictures of one sample, row by row, channels C.
        grids: of these pictures, in these tokens.
        wanted: of the same pictures, in the other model's tokens.
        wanted_tokens: how many that are.

    Raises:
        UsageError: a grid is not known although the numbers of tokens differ, or the models do not
            see the same number of pictures.
    """
    import torch
    from torch.nn.functional import interpolate

    if grids == wanted and len(features_TC) == wanted_tokens:
        return features_TC
    if grids is None or wanted is None:
        if len(features_TC) == wanted_tokens:
            return features_TC
        raise UsageError(
            f"teacher and student have {len(features_TC)} and {wanted_tokens} visual tokens, and"
            " the grid of one of them is not known",
            where=WHERE,
            mend="give both models the same pixel budget, or use another family",
        )
    if len(grids) != len(wanted):
        raise UsageError(
            f"the teacher sees {len(grids)} pictures or tiles and the student {len(wanted)}",
            where=WHERE,
            mend="use families that do not cut pictures into tiles",
        )
    channels = features_TC.shape[-1]
    pieces: Sequence[Tensor] = torch.split(features_TC, [prod(grid) for grid in grids])
    made: list[Tensor] = []
    for piece, grid, target in zip(pieces, grids, wanted, strict=True):
        volume = piece.T.reshape(1, channels, *grid)
        if grid != target:
            volume = interpolate(volume, target, mode="trilinear", align_corners=False)
        made.append(volume.reshape(channels, -1).T)
    return torch.cat(made)
