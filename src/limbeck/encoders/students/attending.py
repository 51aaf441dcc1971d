"""The modules of the students `attention` and `cbam`.

CBAM: Woo et al. 2018, "CBAM: Convolutional Block Attention Module", equations 2 and 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.encoders.students import ImageInputs


class PatchAttention(nn.Module):
    """Attention among the patches of each picture; the map is what a patch is looked at."""

    def __init__(self, width: int, heads: int, embedding: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Linear(width, embedding)

    def forward(self, inputs: ImageInputs) -> tuple[Tensor, Tensor]:
        """As the class says."""
        x_BGD = inputs.tokens_BGD
        assert x_BGD is not None
        y_BGD, weights_BGG = self.attention(x_BGD, x_BGD, x_BGD)
        return self.head(y_BGD.mean(1)), weights_BGG.mean(1)


class TextAttention(nn.Module):
    """Attention over a sequence of one vector for each text."""

    def __init__(self, width: int, heads: int, embedding: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Linear(width, embedding)

    def forward(self, text_MD: Tensor) -> Tensor:
        """As the class says."""
        x_M1D = text_MD[:, None]
        return self.head(self.attention(x_M1D, x_M1D, x_M1D, need_weights=False)[0][:, 0])


class CbamBlock(nn.Module):
    """Channel attention by a shared narrow network, then spatial attention by a 7x7 filter."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.channels = nn.Sequential(
            nn.Linear(width, width // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(width // reduction, width, bias=False),
        )
        self.places = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x_BDhw: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says."""
        mean_BD, most_BD = x_BDhw.mean((2, 3)), x_BDhw.amax((2, 3))
        gate_BD = torch.sigmoid(self.channels(mean_BD) + self.channels(most_BD))
        x_BDhw = x_BDhw * gate_BD[:, :, None, None]
        seen = torch.cat([x_BDhw.mean(1, keepdim=True), x_BDhw.amax(1, keepdim=True)], 1)
        gate_B1hw = torch.sigmoid(self.places(seen))
        return x_BDhw * gate_B1hw, gate_B1hw


class CbamTower(nn.Module):
    """CBAM blocks on the teacher's grid, the mean, and a projection; the map is the last gate."""

    def __init__(self, width: int, blocks: int, reduction: int, embedding: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([CbamBlock(width, reduction) for _ in range(blocks)])
        self.head = nn.Linear(width, embedding)

    def forward(self, inputs: ImageInputs) -> tuple[Tensor, Tensor]:
        """As the class says."""
        assert inputs.tokens_BGD is not None
        batch, cells, width = inputs.tokens_BGD.shape
        side = round(cells**0.5)
        x_BDhw = inputs.tokens_BGD.transpose(1, 2).reshape(batch, width, side, side)
        gate = x_BDhw[:, :1]
        for block in self.blocks:
            x_BDhw, gate = block(x_BDhw)
        map_BG = gate.flatten(1)
        return self.head(x_BDhw.mean((2, 3))), map_BG / map_BG.sum(1, keepdim=True)
