"""MobileNetV3 (Howard et al. 2019), made for phones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from limbeck.encoders.students.convolutional import Convolutional

if TYPE_CHECKING:
    from torch import nn


class Mobilenet(Convolutional):
    """MobileNetV3-Small; a student from pixels."""

    kind: Literal["mobilenet"] = "mobilenet"

    def trunk(self) -> tuple[nn.Module, int]:
        """torchvision's, with random weights."""
        from torchvision.models import mobilenet_v3_small

        return mobilenet_v3_small().features, 576
