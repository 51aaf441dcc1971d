"""EfficientNet (Tan and Le 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from limbeck.encoders.students.convolutional import Convolutional

if TYPE_CHECKING:
    from torch import nn


class Efficientnet(Convolutional):
    """EfficientNet-B0; a student from pixels."""

    kind: Literal["efficientnet"] = "efficientnet"

    def trunk(self) -> tuple[nn.Module, int]:
        """torchvision's, with random weights."""
        from torchvision.models import efficientnet_b0

        return efficientnet_b0().features, 1280
