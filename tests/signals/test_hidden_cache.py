"""Hidden states in a byte a channel: near exact at any temperature, and verified when written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.errors import DataError, TeacherError, UsageError
from limbeck.losses.functional import divergence_rows
from limbeck.records import Dense
from limbeck.signals.hidden import HiddenReader
from limbeck.signals.hidden_coding import HiddenCoding, HiddenStates
from limbeck.signals.writer import SignalWriter

KEY: dict[str, Any] = {"teacher": {"id": "big"}}
WIDTH, VOCABULARY = 48, 200


def head(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(99)
    return (torch.randn(VOCABULARY, WIDTH, generator=generator) / 4).to(dtype)


def states(seed: int, rows: int = 6) -> torch.Tensor:
    """As language models have them: some channels are far larger than others."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.ones(WIDTH)
    sizes[3], sizes[7] = 100.0, 0.01
    return torch.randn(rows, WIDTH, generator=generator) * sizes


def weights(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The head of a model whose outlier channel is read by small weights."""
    scaled = head(torch.float32)
    scaled[:, 3] /= 100
    return scaled.to(dtype)


def made(index: int, dtype: torch.dtype = torch.float32) -> tuple[str, list[int], HiddenStates]:
    hidden = states(index).to(dtype)
    logits = hidden @ weights(dtype).T
    return f"s{index}", logits.argmax(-1).tolist(), HiddenStates(hidden, logits)


def written(
    folder: Path, count: int = 9, dtype: torch.dtype = torch.float32, **options: int
) -> dict[str, Any]:
    writer = SignalWriter(folder, KEY, HiddenCoding(weights(dtype)), **options)
    for index in range(count):
        writer.append(*made(index, dtype))
    return writer.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_divergence_from_the_cache_is_that_of_the_teacher_at_any_temperature(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    written(tmp_path, dtype=dtype, samples_per_shard=4)
    chosen = [made(i, dtype) for i in (8, 0, 5)]
    found = HiddenReader(tmp_path, KEY).signal([c[0] for c in chosen], [c[1] for c in chosen])
    exact = Dense(torch.cat([c[2].hidden_NH.float() @ weights(dtype).float().T for c in chosen]))
    assert isinstance(found, Dense)
    assert found.logits_NV.dtype == torch.float32
    student = torch.randn(len(exact), VOCABULARY)
    for temperature in (0.5, 1.0, 3.7):
        cached, live = (
            divergence_rows(student, signal, temperature=temperature).mean().item()
            for signal in (found, exact)
        )
        assert cached == pytest.approx(live, rel=0.01)
        assert divergence_rows(exact.logits_NV, found, temperature=temperature).mean() < 2e-3


def test_summary_holds_the_cost_and_the_measured_error(tmp_path: Path) -> None:
    summary = written(tmp_path, samples_per_shard=3)
    assert (summary["samples"], summary["tokens"]) == (9, 54)
    size = sum(path.stat().st_size for path in tmp_path.glob("signals-*"))
    assert summary["bytes_per_token"] == size / 54
    assert summary["agreement"] == 1
    assert summary["head_bytes"] == VOCABULARY * WIDTH * 2
    assert summary["clipped_share"] < 0.001
    reader = HiddenReader(tmp_path, KEY)
    kl, entropy = [], []
    for index in range(9):
        sample_id, answer, signal = made(index)
        log_p = signal.logits_NV.log_softmax(-1)
        log_q = reader.signal([sample_id], [answer]).logits_NV.log_softmax(-1)
        kl.append((log_p.exp() * (log_p - log_q)).sum(-1))
        entropy.append(-(log_p.exp() * log_p).sum(-1))
    assert summary["kl_nats"] == pytest.approx(torch.cat(kl).mean().item(), rel=0.02)
    assert summary["kl_nats_p99"] == pytest.approx(torch.cat(kl).quantile(0.99).item(), rel=0.05)
    assert summary["entropy_nats"] == pytest.approx(torch.cat(entropy).mean().item(), rel=1e-4)
    assert summary["kl_nats"] < summary["kl_nats_p99"]


def test_a_teacher_whose_distributions_do_not_survive_stops_the_stage(tmp_path: Path) -> None:
    spiky = weights() * 60  # int8 steps become whole nats
    writer = SignalWriter(tmp_path, KEY, HiddenCoding(spiky))
    hidden = states(0)
    writer.append("a", [0] * 6, HiddenStates(hidden, hidden @ spiky.T))
    with pytest.raises(TeacherError, match=r"nats.*label\.signal to top_k"):
        writer.flush()
    assert not list(tmp_path.glob("signals-*"))


def test_values_beyond_the_calibration_are_clipped_and_counted(tmp_path: Path) -> None:
    writer = SignalWriter(tmp_path, KEY, HiddenCoding(weights()), samples_per_shard=1)
    quiet = states(0)
    writer.append("a", [0] * 6, HiddenStates(quiet, quiet @ weights().T))
    loud = quiet.clone()
    loud[0, 7] = 0.2  # far out, in a channel of small effect
    writer.append("b", [0] * 6, HiddenStates(loud, loud @ weights().T))
    assert writer.close()["clipped_share"] > 0
    found = HiddenReader(tmp_path, KEY).rows("b", [0] * 6)
    assert quiet[:, 7].abs().max().item() < found[0, 7] < 0.1


def test_signal_that_does_not_fit_is_refused_when_it_is_appended(tmp_path: Path) -> None:
    writer = SignalWriter(tmp_path, KEY, HiddenCoding(weights()))
    hidden = states(0)
    logits = hidden @ weights().T
    for signal, error, said in (
        (HiddenStates(hidden[:, :9], logits), UsageError, "width 48"),
        (HiddenStates(hidden * torch.nan, logits), TeacherError, "not finite"),
        (HiddenStates(hidden, 30 * torch.tanh(logits / 30)), TeacherError, "more than its matrix"),
    ):
        with pytest.raises(error, match=said):
            writer.append("a", [0] * 6, signal)
    with pytest.raises(UsageError, match="6 rows for 5 answer tokens"):
        writer.append("a", [0] * 5, HiddenStates(hidden, logits))


@pytest.mark.parametrize("lost", ["signals-00000", "signals-00001", "signals-00002"])
def test_resumed_cache_ends_in_the_same_bytes(tmp_path: Path, lost: str) -> None:
    written(tmp_path / "whole", samples_per_shard=3)
    folder = tmp_path / "resumed"
    shutil.copytree(tmp_path / "whole", folder)
    os.truncate(folder / f"{lost}.safetensors", 500)
    (folder / ".head.safetensors.77.tmp").write_bytes(b"half a head")
    writer = SignalWriter(folder, KEY, HiddenCoding(weights()), samples_per_shard=3)
    assert len(writer.done) == 6
    for index in range(9):
        if f"s{index}" not in writer.done:
            writer.append(*made(index))
    writer.close()
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("name", ["head.safetensors", "signals-00001.safetensors"])
def test_changed_torn_and_missing_files_are_refused(tmp_path: Path, name: str) -> None:
    written(tmp_path, samples_per_shard=3)
    path = tmp_path / name
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for broken in (bytes(flipped), whole[:-1], b""):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=name):
            HiddenReader(tmp_path, KEY)
    path.unlink()
    with pytest.raises(DataError, match=name):
        HiddenReader(tmp_path, KEY)


def test_cache_of_another_key_or_kind_is_refused(tmp_path: Path) -> None:
    from limbeck.signals.reader import SignalReader
    from limbeck.signals.top_k_coding import TopKCoding

    written(tmp_path)
    with pytest.raises(DataError, match=r"another teacher\.id"):
        HiddenReader(tmp_path, {"teacher": {"id": "other"}})
    with pytest.raises(DataError, match="limbeck-hidden-1"):
        SignalReader(tmp_path, KEY)
    with pytest.raises(DataError, match="answer token 0"):
        HiddenReader(tmp_path, KEY).rows("s0", [-1] * 6)
    with pytest.raises(DataError, match="limbeck-hidden-1"):
        SignalWriter(tmp_path, KEY, TopKCoding(4, (1.0,)))
