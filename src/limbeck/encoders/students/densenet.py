"""DenseNet (Huang et al. 2017) on raw pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from limbeck.encoders.students.convolutional import Convolutional

if TYPE_CHECKING:
    from torch import nn


class Densenet(Convolutional):
    """DenseNet-121 with its defaults; a student from pixels."""

    kind: Literal["densenet"] = "densenet"
    growth: int = Field(32, gt=0, description="channels that a layer adds")
    blocks: tuple[int, int, int, int] = Field((6, 12, 24, 16), description="of each stage")
    first: int = Field(64, gt=0, description="channels of the first layer")

    def trunk(self) -> tuple[nn.Module, int]:
        """torchvision's, with random weights."""
        from torch import nn
        from torchvision.models import DenseNet

        net = DenseNet(self.growth, self.blocks, self.first)
        return nn.Sequential(net.features, nn.ReLU()), net.classifier.in_features
