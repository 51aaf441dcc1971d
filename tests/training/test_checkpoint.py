"""A checkpoint restores everything, and a torn one is not a checkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.errors import DataError
from limbeck.recipe.sections import Training
from limbeck.training import checkpoint
from limbeck.training.optimizer import make_optimizers, set_learning_rate, share_of_peak


def make(seed: int) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 7))
    training = Training(optimizer="muon", learning_rate=1e-2)
    return model, make_optimizers(model, training, exclude_from_muon=model[3].parameters())


def step(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> float:
    ids = torch.randint(0, 7, (16,))
    loss = nn.functional.cross_entropy(model(ids), ids)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def test_muon_takes_hidden_matrices_and_adamw_the_rest() -> None:
    model, (muon, adamw) = make(0)
    in_muon = [p for group in muon.param_groups for p in group["params"]]
    assert [p is model[1].weight for p in in_muon] == [True]
    in_adamw = {id(p) for group in adamw.param_groups for p in group["params"]}
    assert in_adamw == {id(p) for p in model.parameters()} - {id(model[1].weight)}
    undecayed = [g for g in adamw.param_groups if g["weight_decay"] == 0]
    assert all(p.ndim == 1 for g in undecayed for p in g["params"])


def test_resuming_is_bit_identical(tmp_path: Path) -> None:
    model, optimizers = make(1)
    for _ in range(3):
        step(model, optimizers)
    checkpoint.save(tmp_path, 3, weights=weights(model), optimizers=optimizers, state={"a": 1})
    unbroken = [step(model, optimizers) for _ in range(3)]
    drawn = (random.random(), np.random.rand(), torch.rand(()).item())

    other, other_optimizers = make(2)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    state = checkpoint.load(found, weights=weights(other), optimizers=other_optimizers)
    assert state["step"] == 3
    assert state["a"] == 1
    assert [step(other, other_optimizers) for _ in range(3)] == unbroken
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == drawn
    for name, tensor in weights(other).items():
        assert torch.equal(tensor, weights(model)[name])


def test_only_the_newest_checkpoint_is_kept(tmp_path: Path) -> None:
    model, optimizers = make(0)
    for number in (1, 2):
        checkpoint.save(tmp_path, number, weights=weights(model), optimizers=optimizers, state={})
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000002"]


def test_a_torn_checkpoint_is_ignored_and_removed(tmp_path: Path) -> None:
    model, optimizers = make(0)
    good = checkpoint.save(tmp_path, 1, weights=weights(model), optimizers=optimizers, state={})
    content = {path.name: path.read_bytes() for path in good.iterdir()}
    for name in content:
        for cut in (0, len(content[name]) // 2, len(content[name]) - 2):
            torn = tmp_path / "step-0000009"
            torn.mkdir()
            for other, data in content.items():
                (torn / other).write_bytes(data[:cut] if other == name else data)
            assert checkpoint.latest(tmp_path) == good
            assert not torn.exists()
    (tmp_path / "step-0000012-partial").mkdir()
    assert checkpoint.latest(tmp_path) == good
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001"]


def test_a_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizers = make(0)
    good = checkpoint.save(tmp_path, 1, weights=weights(model), optimizers=optimizers, state={})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DataError, match="No space left"):
        checkpoint.save(tmp_path, 2, weights=weights(model), optimizers=optimizers, state={})
    assert checkpoint.latest(tmp_path) == good


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_schedule_warms_up_peaks_once_and_ends_at_its_floor(schedule: str) -> None:
    training = Training(steps=100, schedule=schedule, warmup=0.1, final_learning_rate=0.2)
    shares = [share_of_peak(step, 100, training) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == pytest.approx(1.0)
    assert max(shares) == pytest.approx(1.0)
    if schedule == "constant":
        assert set(shares[9:]) == {1.0}
    else:
        assert shares[10:] == sorted(shares[10:], reverse=True)
        assert 0.2 <= shares[-1] < 0.22


def test_setting_the_rate_keeps_the_ratio_between_groups() -> None:
    _, optimizers = make(0)
    set_learning_rate(optimizers, 0.5)
    assert optimizers[0].param_groups[0]["lr"] == pytest.approx(1.5e-3)
    assert optimizers[1].param_groups[0]["lr"] == pytest.approx(5e-3)
