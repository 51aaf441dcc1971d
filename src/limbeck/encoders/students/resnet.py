"""ResNet (He et al. 2016) on raw pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from limbeck.encoders.students.convolutional import Convolutional

if TYPE_CHECKING:
    from torch import nn


class Resnet(Convolutional):
    """ResNet-18 with its defaults; a student from pixels."""

    kind: Literal["resnet"] = "resnet"
    blocks: tuple[int, int, int, int] = Field((2, 2, 2, 2), description="of each stage")

    def trunk(self) -> tuple[nn.Module, int]:
        """torchvision's, with random weights."""
        from torch import nn
        from torchvision.models.resnet import BasicBlock, ResNet

        return nn.Sequential(*list(ResNet(BasicBlock, list(self.blocks)).children())[:-2]), 512
