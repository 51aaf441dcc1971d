"""Students: the published sizes, and outputs that do not depend on the rest of the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from limbeck.encoders.guards import check_batch_invariance
from limbeck.encoders.students import EncoderStudent, ImageInputs, TeacherShape, towers_mib
from limbeck.errors import GuardError
from limbeck.recipe.component import build_component, component_names

TWO_TOWERS, ONE_TOWER = TeacherShape(512, True, 4), TeacherShape(768, False, 4)
STUDENTS = component_names("limbeck.encoders.students")
PUBLISHED_MIB = {
    "projection": (1.00, 0.75),
    "bottleneck": (0.75, 0.50),
    "attention": (9.02, 9.76),
    "cbam": (1.25, None),
    "resnet": (43.39, 43.03),
    "densenet": (27.53, 27.16),
}


def student(kind: str) -> EncoderStudent:
    found: Any = build_component("limbeck.encoders.students", "kind", kind)
    return found


@pytest.mark.parametrize("kind", PUBLISHED_MIB)
def test_sizes_are_the_published_ones_to_one_percent(kind: str):
    for shape, published in zip((TWO_TOWERS, ONE_TOWER), PUBLISHED_MIB[kind], strict=True):
        if published is not None:
            assert towers_mib(student(kind), shape) == pytest.approx(published, rel=0.01)


def inputs_for(kind: str, count: int) -> ImageInputs:
    torch.manual_seed(1)
    if student(kind).from_pixels:
        return ImageInputs(pixels=torch.rand(count, 3, 64, 64) * 2 - 1)
    return ImageInputs(pooled_BD=torch.randn(count, 512), tokens_BGD=torch.randn(count, 16, 512))


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_samples_output_does_not_depend_on_its_neighbours(kind: str):
    torch.manual_seed(0)
    tower = student(kind).image_tower(TWO_TOWERS)
    check_batch_invariance(tower, inputs_for(kind, 5), where=kind)
    embedding_BE, map_BG = tower(inputs_for(kind, 5))
    assert embedding_BE.shape == (5, 256)
    assert (map_BG is not None) == student(kind).has_map
    if map_BG is not None:
        torch.testing.assert_close(map_BG.sum(1), torch.ones(5))


class AcrossTheBatch(nn.Module):
    """The published fault: (B, d) taken for a sequence of B."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(512, 8)
        self.head = nn.Linear(512, 256)

    def forward(self, inputs: ImageInputs) -> tuple[Any, None]:
        x = inputs.pooled_BD
        return self.head(self.attention(x, x, x)[0]), None


def test_attention_over_the_batch_is_caught():
    torch.manual_seed(0)
    with pytest.raises(GuardError, match="neighbours"):
        check_batch_invariance(AcrossTheBatch(), inputs_for("attention", 5), where="planted")
