"""The signal cache gives back what went in, by sample id, without torch until tensors are asked."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from limbeck.errors import DataError, TeacherError, UsageError
from limbeck.losses.functional import divergence_rows
from limbeck.records import ImageFile, Sample, TopK
from limbeck.signals.key import sample_key
from limbeck.signals.reader import SignalReader
from limbeck.signals.top_k import collate, from_logits
from limbeck.signals.top_k_coding import TopKCoding
from limbeck.signals.writer import SignalWriter

KEY = {"teacher": {"id": "big", "revision": "abc"}, "dtype": "bfloat16", "pixels": [3136, 401408]}
TEMPERATURES = (1.0, 2.0)
VOCABULARY, K = 40, 6


def made(index: int) -> tuple[str, list[int], TopK]:
    """Sample `index` with an answer of 1 to 5 tokens, decoded greedily."""
    generator = torch.Generator().manual_seed(index)
    logits = torch.randn(index % 5 + 1, VOCABULARY, generator=generator) * 3
    return f"s/{index} é", logits.argmax(-1).tolist(), from_logits(logits, K, TEMPERATURES)


def written(folder: Path, count: int, **options: int) -> SignalWriter:
    writer = SignalWriter(folder, KEY, TopKCoding(K, TEMPERATURES), **options)
    for index in range(count):
        writer.append(*made(index))
    writer.close()
    return writer


def require_close(found: TopK, expected: TopK) -> None:
    """Equal tokens in increasing order, and probabilities within the error of the coding."""
    assert found.log_tails_NT is not None
    assert expected.log_tails_NT is not None
    order = expected.ids_NK.argsort(-1)
    assert torch.equal(found.ids_NK, expected.ids_NK.gather(-1, order))
    logp = expected.logp_NK.gather(-1, order).float()
    spread = logp.amax(-1, keepdim=True) - logp.amin(-1, keepdim=True)
    assert ((found.logp_NK - logp).abs() <= spread / 100 + 1e-3).all()
    torch.testing.assert_close(
        found.log_tails_NT, expected.log_tails_NT.float(), rtol=2**-11, atol=1e-6
    )
    for at, temperature in enumerate(found.temperatures):
        kept = (found.logp_NK / temperature - found.log_sums_NT[:, at : at + 1]).exp().sum(-1)
        tail = found.log_tails_NT[:, at].exp()
        torch.testing.assert_close(kept + tail, torch.ones(len(found)), rtol=0, atol=2e-6)


def test_every_sample_comes_back_within_the_error_of_the_coding(tmp_path: Path) -> None:
    written(tmp_path, 11, samples_per_shard=4)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["signals-00000.safetensors", *(f"signals-0000{i}.safetensors" for i in (1, 2)),
                     "signals.json"]  # fmt: skip
    reader = SignalReader(tmp_path, KEY)
    assert len(reader) == 11
    assert reader.sample_ids == [made(i)[0] for i in range(11)]
    for index in (10, 0, 7, 3):
        sample_id, answer, signal = made(index)
        found = reader.get(sample_id, answer)
        assert sample_id in reader
        assert found.temperatures == TEMPERATURES
        require_close(found, signal)


def test_a_micro_batch_gives_the_rows_of_its_answers_in_order(tmp_path: Path) -> None:
    written(tmp_path, 9, samples_per_shard=2)
    chosen = [made(i) for i in (8, 1, 4)]
    reader = SignalReader(tmp_path, KEY)
    found = reader.signal([c[0] for c in chosen], [c[1] for c in chosen])
    expected = collate([c[2] for c in chosen])
    require_close(found, expected)
    for name in ("ids_NK", "logp_NK", "log_sums_NT", "log_tails_NT"):
        alone = torch.cat([getattr(reader.get(c[0], c[1]), name) for c in chosen])
        assert torch.equal(getattr(found, name), alone), name
    student = torch.randn(len(found), VOCABULARY)
    torch.testing.assert_close(
        divergence_rows(student, found, temperature=2.0),
        divergence_rows(student, expected, temperature=2.0),
        rtol=0.01,
        atol=1e-4,
    )


def test_same_samples_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tmp_path / name, 7, samples_per_shard=3)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_shards_are_plain_safetensors_files(tmp_path: Path) -> None:
    written(tmp_path, 3)
    found = load_file(tmp_path / "signals-00000.safetensors")
    assert set(found) == {"ids", "codes", "ranges", "log_tails", "answers", "samples"}
    assert found["codes"].shape == (6, K)
    about = json.loads(zlib.decompress(found["samples"].tobytes()))
    assert about["ids"] == [made(i)[0] for i in range(3)]
    assert about["lengths"] == [1, 2, 3]


def test_statistics_are_those_of_the_distributions(tmp_path: Path) -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.125, 0.125, 0.25, 0.5]]).log()
    writer = SignalWriter(tmp_path, KEY, TopKCoding(2, (1.0, 0.5)))
    writer.append("a", [0, 2], from_logits(logits, 2, (1.0, 0.5)))  # the second is not the argmax
    found = writer.close()
    assert found["samples"] == 1
    assert found["tokens"] == 2
    assert found["agreement"] == 0.5
    half = 2 / 64 / (0.25 + 1 / 16 + 2 / 64)
    assert found["tail_mass"]["1"] == pytest.approx(0.25, rel=2e-3)  # log-tails are in float16
    assert found["tail_mass"]["0.5"] == pytest.approx(half, rel=2e-3)
    entropy = 0.5 * torch.log(torch.tensor(2.0)) + 2 * 0.25 * torch.log(torch.tensor(4.0))
    assert found["entropy_nats"] == pytest.approx(entropy.item(), rel=2e-3)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert found["bytes_per_token"] == size / 2
    assert SignalReader(tmp_path, KEY).statistics == found


def test_a_tie_with_the_hard_label_counts_as_agreement(tmp_path: Path) -> None:
    writer = SignalWriter(tmp_path, KEY, TopKCoding(2, (1.0,)))
    writer.append("a", [3], from_logits(torch.tensor([[2.0, 0.0, 0.0, 2.0]]), 2, (1.0,)))
    assert writer.close()["agreement"] == 1


def test_greedy_answers_agree_with_the_argmax(tmp_path: Path) -> None:
    written(tmp_path, 20)
    assert SignalReader(tmp_path, KEY).statistics["agreement"] == 1


def test_all_tokens_may_be_kept_of_a_small_vocabulary(tmp_path: Path) -> None:
    logits = torch.randn(3, 5)
    writer = SignalWriter(tmp_path, KEY, TopKCoding(64, (1.0,)))
    writer.append("a", [0, 1, 2], from_logits(logits, 64, (1.0,)))
    assert writer.close()["tail_mass"]["1"] == 0


def test_signals_may_come_in_low_or_double_precision_and_without_tails(tmp_path: Path) -> None:
    logits = torch.randn(2, 9, dtype=torch.float64)
    signal = from_logits(logits, 3, (1.0,))
    half = TopK(signal.ids_NK.int(), signal.logp_NK.half(), signal.log_sums_NT, (1.0,))
    writer = SignalWriter(tmp_path, KEY, TopKCoding(3, (1.0,)))
    writer.append("double", [0, 1], signal)
    writer.append("half", [0, 1], half)
    writer.close()
    reader = SignalReader(tmp_path, KEY)
    for name in ("double", "half"):
        found, order = reader.get(name, [0, 1]), signal.ids_NK.argsort(-1)
        expected = signal.logp_NK.gather(-1, order).float()
        torch.testing.assert_close(found.logp_NK, expected, rtol=0, atol=0.01)
        assert found.logp_NK.dtype == torch.float32


def test_signal_that_does_not_fit_is_refused_when_it_is_appended(tmp_path: Path) -> None:
    writer = SignalWriter(tmp_path, KEY, TopKCoding(3, (1.0,)))
    logits = torch.randn(4, 9)
    good = from_logits(logits, 3, (1.0,))
    raw = TopK(good.ids_NK, logits[:, :3] + 5, good.log_sums_NT, (1.0,))
    doubled = TopK(good.ids_NK * 0, good.logp_NK, good.log_sums_NT, (1.0,))
    not_numbers = TopK(good.ids_NK, good.logp_NK * torch.nan, good.log_sums_NT, (1.0,))
    for answer, signal, error, said in (
        ([1, 2, 3], good, UsageError, "4 rows for 3 answer tokens"),
        ([1, 2, 3, 4], from_logits(logits, 4, (1.0,)), UsageError, "keeps 4 tokens"),
        ([1, 2, 3, 4], from_logits(logits, 3, (2.0,)), UsageError, "temperatures"),
        ([1, 2, 3, 4], raw, TeacherError, "log-probabilities"),
        ([1, 2, 3, 4], not_numbers, TeacherError, "log-probabilities"),
        ([1, 2, 3, 4], doubled, TeacherError, "different tokens"),
    ):
        with pytest.raises(error, match=said):
            writer.append("a", answer, signal)
    writer.append("a", [1, 2, 3, 4], good)
    with pytest.raises(UsageError, match="keeps 2 tokens, the cache 3"):
        writer.append("b", [1, 2, 3, 4], from_logits(logits, 2, (1.0,)))
    with pytest.raises(DataError, match="twice"):
        writer.append("a", [1, 2, 3, 4], good)


def test_sample_key_changes_with_prompt_picture_and_text_and_nothing_else() -> None:
    def sample(text: str = "What?", image: str = "aa", path: str = "1.png") -> Sample:
        messages = ({"role": "user", "content": [{"type": "text", "text": text}]},)
        return Sample("s", "train", messages, (ImageFile(path, image, 4, 4),), ("gold",))

    key = sample_key(sample(), "answer")
    assert sample_key(sample(path="elsewhere.png"), "answer") == key
    for changed, part in (
        (sample_key(sample(text="Why?"), "answer"), "prompt"),
        (sample_key(sample(image="bb"), "answer"), "images"),
        (sample_key(sample(), "other"), "target_text"),
    ):
        assert {name for name in key if key[name] != changed[name]} == {part}


def test_reader_needs_no_torch_until_tensors_are_asked_for(tmp_path: Path) -> None:
    written(tmp_path, 3)
    sample_id, answer, _ = made(2)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from limbeck.signals.reader import SignalReader\n"
        f"reader = SignalReader(Path({str(tmp_path)!r}), {KEY!r})\n"
        f"ids, logp, sums, tails = reader.rows({sample_id!r}, {answer!r})\n"
        "assert ids.shape == logp.shape == (3, 6) and sums.shape == tails.shape == (3, 2)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
