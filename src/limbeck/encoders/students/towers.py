"""Towers that several students share."""

from __future__ import annotations

from torch import Tensor, nn

from limbeck.encoders.students import ImageInputs

BOTTLENECK = 128
"""Width of the narrow layer, as published."""


def narrow(inputs: int, outputs: int) -> nn.Sequential:
    """d -> 128, ReLU, 128 -> outputs."""
    return nn.Sequential(nn.Linear(inputs, BOTTLENECK), nn.ReLU(), nn.Linear(BOTTLENECK, outputs))


class Pooled(nn.Module):
    """A head on the teacher's pooled features."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, inputs: ImageInputs) -> tuple[Tensor, None]:
        """As the class says."""
        assert inputs.pooled_BD is not None
        return self.head(inputs.pooled_BD), None


class Pixels(nn.Module):
    """A convolutional trunk [B, 3, S, S] -> [B, C, h, w], its mean, and a head.

    The map is the energy of the last features (Zagoruyko and Komodakis 2017, equation 1, p = 2) on
    the teacher's grid.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module, grid: int) -> None:
        super().__init__()
        self.trunk, self.head, self.grid = trunk, head, grid

    def forward(self, inputs: ImageInputs) -> tuple[Tensor, Tensor]:
        """As the class says."""
        assert inputs.pixels is not None
        features = self.trunk(inputs.pixels)
        energy = features.square().mean(1, keepdim=True)
        side = (self.grid, self.grid)
        shown = nn.functional.interpolate(energy, side, mode="bilinear", align_corners=False)
        map_BG = shown.flatten(1) + 1e-6
        return self.head(features.mean((2, 3))), map_BG / map_BG.sum(1, keepdim=True)
