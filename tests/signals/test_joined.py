"""Several caches as one: every sample from its own, rows in the order that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from limbeck.data.samples import read_samples
from limbeck.errors import DataError, UsageError
from limbeck.labelling import label
from limbeck.losses.divergence import Divergence
from limbeck.models.build import build_model
from limbeck.recipe.sections import Labelling, Student, Training
from limbeck.records import Dense, TopK
from limbeck.signals.joined import JoinedSignals
from limbeck.teachers.transformers import Transformers
from limbeck.training.stage import LabelFolder, train_student


class Numbered:
    """Every row says which source it is from and which token it predicts."""

    def __init__(self, number: int, kind: str) -> None:
        self.number, self.kind = number, kind
        self.calls = 0

    def signal(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Dense | TopK:
        self.calls += 1
        rows_N2 = torch.tensor([[float(self.number), token] for a in answers for token in a])
        if self.kind == "dense":
            return Dense(rows_N2)
        return TopK(rows_N2.long(), -rows_N2, rows_N2[:, :1], (1.0,), -rows_N2[:, :1])


@pytest.mark.parametrize("kind", ["dense", "top_k"])
def test_rows_come_in_the_order_of_the_samples(kind: str) -> None:
    one, two = Numbered(1, kind), Numbered(2, kind)
    joined = JoinedSignals({"a": one, "b": two, "c": two, "d": one})
    found = joined.signal(["a", "b", "c", "d"], [[7, 8], [9], [10, 11], [12]])
    expected = torch.tensor([[1, 7], [1, 8], [2, 9], [2, 10], [2, 11], [1, 12]])
    if kind == "dense":
        assert isinstance(found, Dense)
        assert torch.equal(found.logits_NV, expected.float())
    else:
        assert isinstance(found, TopK)
        assert torch.equal(found.ids_NK, expected)
        assert torch.equal(found.logp_NK, -expected.float())
        assert found.log_tails_NT is not None
        assert len(found.log_sums_NT) == len(found.log_tails_NT) == len(found) == 6
    assert two.calls == 1, "neighbours are asked for together"


def test_a_sample_of_no_cache_is_an_error() -> None:
    with pytest.raises(DataError, match="no cache holds"):
        JoinedSignals({"a": Numbered(1, "dense")}).signal(["x"], [[1]])


def labelled(
    folder: Path, screens: Path, model: Path, start: int, **changes: object
) -> LabelFolder:
    samples = read_samples(screens, "train")[start : start + 4]
    settings = Labelling.model_validate({"answers": "gold", "top_k": 4})
    teacher = Transformers(model=str(model))
    key = {"teacher": str(start)}
    common = {"samples": samples, "data": screens, "settings": settings, "device": "cpu"}
    label(folder, teacher=teacher, key=key, **common)  # type: ignore[arg-type]
    return LabelFolder(folder, samples, key)


def train(output: Path, screens: Path, model: Path, folders: list[LabelFolder]) -> None:
    train_student(
        output,
        section=Student(model=str(model)),
        losses=[Divergence()],
        training=Training(steps=2, samples_per_step=8, precision="fp32"),
        labelling=Labelling.model_validate({"answers": "gold", "top_k": 4}),
        teacher=Transformers(model=str(model)),
        labels=folders,
        data=screens,
        seed=0,
        device="cpu",
        title="test",
    )


def test_a_student_is_trained_on_all_and_each_cache_is_checked(
    screens: Path, tiny_model: Path, tmp_path: Path
) -> None:
    one = labelled(tmp_path / "one", screens, tiny_model, 0)
    two = labelled(tmp_path / "two", screens, tiny_model, 4)
    train(tmp_path / "student", screens, tiny_model, [one, two])
    foreign = LabelFolder(two.folder, two.samples, {"teacher": "another"})
    with pytest.raises(DataError, match="made for another teacher") as raised:
        train(tmp_path / "refused", screens, tiny_model, [one, foreign])
    assert "two" in str(raised.value)


def test_labels_in_tokens_of_another_tokenizer_are_refused(
    screens: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from tiny_models import tiny_build

    build_model(tiny_build(), ["quite other words"], 0, tmp_path / "model")
    one = labelled(tmp_path / "one", screens, tiny_model, 0)
    two = labelled(tmp_path / "two", screens, tmp_path / "model", 4)
    with pytest.raises(UsageError, match="tokenizers are not the same"):
        train(tmp_path / "student", screens, tiny_model, [one, two])
