"""Every teacher: a tiny model of the real class looks, and reads where it can."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from limbeck.encoders.teachers import TinyTeacher
from limbeck.recipe.component import build_component, component_names

TEACHERS = component_names("limbeck.encoders.teachers")


class Words:
    """As much of a tokenizer as a configuration asks for."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __len__(self) -> int:
        return 12


def made(kind: str) -> tuple[Any, Any]:
    teacher: Any = build_component("limbeck.encoders.teachers", "kind", {"kind": kind, "build": {}})
    torch.manual_seed(0)
    return teacher, teacher.new_model(TinyTeacher(), Words()).eval()


def test_the_four_teachers_of_the_study_are_there():
    assert TEACHERS == ["beit", "blip", "clip", "dino"]


@pytest.mark.parametrize("kind", TEACHERS)
def test_features_have_their_shapes_and_survive_saving(kind: str, tmp_path: Path):
    teacher, model = made(kind)
    pixels = torch.rand(3, 3, 32, 32)
    model.save_pretrained(tmp_path)
    again = teacher.load_model(tmp_path).eval()
    with torch.no_grad():
        found, same = teacher.look(model, pixels), teacher.look(again, pixels)
    assert found.embedding_BD.shape == (3, 64)
    assert found.tokens_BTD.shape == (3, 16, 64)
    torch.testing.assert_close(found.attention_BT.sum(1), torch.ones(3))
    torch.testing.assert_close(found.embedding_BD, same.embedding_BD)
    if teacher.reads_text:
        tokens = SimpleNamespace(
            input_ids=torch.tensor([[1, 5, 2, 0], [1, 6, 7, 2]]),
            attention_mask=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
        )
        with torch.no_grad():
            assert teacher.read(model, tokens).shape == (2, 64)
