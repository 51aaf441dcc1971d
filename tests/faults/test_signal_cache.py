"""Nothing computed is lost, nothing wrong is trusted: kills, damage, stale and foreign caches."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal as signals
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.errors import DataError
from limbeck.records import TopK
from limbeck.signals.reader import SignalReader
from limbeck.signals.shard import ShardSample, open_shard, shard_bytes
from limbeck.signals.top_k import from_logits
from limbeck.signals.top_k_coding import FORMAT, TopKCoding
from limbeck.signals.writer import SignalWriter

KEY: dict[str, Any] = {
    "teacher": {"id": "big", "revision": "abc"},
    "quantization": "none",
    "dtype": "bfloat16",
    "tokenizer": "t0",
    "chat_template": "c0",
    "min_pixels": 3136,
    "max_pixels": 401408,
    "vocabulary": 40,
}
SAMPLE_KEY = {"prompt": "p0", "images": "i0", "target_text": "x0"}
ANSWER = [5, 6, 7]


def signal(seed: int, rows: int = 3) -> TopK:
    generator = torch.Generator().manual_seed(seed)
    return from_logits(torch.randn(rows, 40, generator=generator), 4, (1.0,))


def write(folder: Path, count: int = 6, key: dict[str, Any] | None = None) -> None:
    writer = SignalWriter(folder, key or KEY, TopKCoding(4, (1.0,)), samples_per_shard=2)
    for index in range(count):
        writer.append(f"s{index}", ANSWER, signal(index), SAMPLE_KEY)
    writer.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("teacher.id", {"teacher": {"id": "other", "revision": "abc"}}),
        ("teacher.revision", {"teacher": {"id": "big", "revision": "def"}}),
        ("quantization", {"quantization": "nf4"}),
        ("dtype", {"dtype": "float32"}),
        ("tokenizer", {"tokenizer": "t1"}),
        ("chat_template", {"chat_template": "c1"}),
        ("min_pixels", {"min_pixels": 784}),
        ("max_pixels", {"max_pixels": 802816}),
        ("vocabulary", {"vocabulary": 41}),
        ("new_part", {"new_part": 1}),
    ],
)
def test_cache_of_another_key_is_refused_by_reader_and_writer_naming_the_part(
    tmp_path: Path, part: str, changed: dict[str, Any]
) -> None:
    write(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(DataError, match=rf"for another {part} \(stored") as caught:
        SignalReader(tmp_path, {**KEY, **changed})
    assert "label again" in str(caught.value)
    with pytest.raises(DataError, match=f"for another {part} "):
        SignalWriter(tmp_path, {**KEY, **changed}, TopKCoding(4, (1.0,)))
    after = contents(tmp_path)
    assert {n: after[n] for n in after if n != "signals.json"} == {
        n: before[n] for n in before if n != "signals.json"
    }


@pytest.mark.parametrize("part", ["prompt", "images", "target_text"])
def test_sample_that_changed_since_it_was_labelled_is_refused_naming_the_part(
    tmp_path: Path, part: str
) -> None:
    write(tmp_path)
    reader = SignalReader(tmp_path, KEY)
    reader.check_samples({f"s{i}": SAMPLE_KEY for i in range(6)})
    with pytest.raises(DataError, match=f"s3: .*for another {part} "):
        reader.check_samples({"s0": SAMPLE_KEY, "s3": {**SAMPLE_KEY, part: "new"}})
    with pytest.raises(DataError, match=r"s9: .*no signals of this sample"):
        reader.check_samples({"s9": SAMPLE_KEY})


def test_k_and_temperatures_of_a_resumed_cache_must_be_the_same(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match="another top_k"):
        SignalWriter(tmp_path, KEY, TopKCoding(5, (1.0,)))
    with pytest.raises(DataError, match="another temperatures"):
        SignalWriter(tmp_path, KEY, TopKCoding(4, (1.0, 2.0)))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ANSWER[:-1], "signals for 3 answer tokens, asked for 2"),
        ([*ANSWER, 1], "signals for 3 answer tokens, asked for 4"),
        ([5, 9, 7], "answer token 1 is 6 in the cache and 9 here"),
    ],
)
def test_signals_on_other_answer_tokens_are_refused(
    tmp_path: Path, answer: list[int], said: str
) -> None:
    write(tmp_path)
    reader = SignalReader(tmp_path, KEY)
    with pytest.raises(DataError, match=said):
        reader.get("s1", answer)
    with pytest.raises(DataError, match=said):
        reader.signal(["s0", "s1"], [ANSWER, answer])
    with pytest.raises(DataError, match="no signals of this sample"):
        reader.get("unknown", ANSWER)


def test_no_bit_flip_and_no_truncation_is_ever_read(tmp_path: Path) -> None:
    write(tmp_path)
    chance = random.Random(0)
    for _ in range(120):
        path = tmp_path / chance.choice([f"signals-0000{i}.safetensors" for i in range(3)])
        whole = path.read_bytes()
        broken = bytearray(whole)
        if chance.random() < 0.5:
            del broken[chance.randrange(len(broken)) :]
        else:
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(broken))
        with pytest.raises(DataError, match=path.name):
            SignalReader(tmp_path, KEY)
        path.write_bytes(whole)
    assert len(SignalReader(tmp_path, KEY)) == 6


@pytest.mark.parametrize("index", ["", "{", "[]", "{}", '{"key": {}, "shards": {}}', "\udcff"])
def test_broken_index_is_refused(tmp_path: Path, index: str) -> None:
    write(tmp_path)
    (tmp_path / "signals.json").write_bytes(index.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"signals\.json"):
        SignalReader(tmp_path, KEY)


def test_missing_stray_and_swapped_shards_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    shard, other = (tmp_path / f"signals-0000{i}.safetensors" for i in (1, 2))
    kept = shard.read_bytes()
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard}: .*missing"):
        SignalReader(tmp_path, KEY)
    shutil.copy(other, shard)
    with pytest.raises(DataError, match="not the one of this cache"):
        SignalReader(tmp_path, KEY)
    shard.write_bytes(kept)
    shutil.copy(other, tmp_path / "signals-00007.safetensors")
    with pytest.raises(DataError, match="signals-00007"):
        SignalReader(tmp_path, KEY)


def test_shard_of_another_teacher_is_refused_even_with_a_whole_checksum(tmp_path: Path) -> None:
    write(tmp_path / "mine")
    write(tmp_path / "theirs", key={**KEY, "dtype": "float32"})
    shutil.copy(tmp_path / "theirs/signals-00001.safetensors", tmp_path / "mine")
    with pytest.raises(DataError, match="another dtype"):
        SignalReader(tmp_path / "mine", KEY)


def test_unfinished_cache_is_not_read(tmp_path: Path) -> None:
    writer = SignalWriter(tmp_path, KEY, TopKCoding(4, (1.0,)), samples_per_shard=1)
    writer.append("s0", ANSWER, signal(0), SAMPLE_KEY)
    with pytest.raises(DataError, match="not finished"):
        SignalReader(tmp_path, KEY)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "none"])
def test_resumed_cache_redoes_only_the_torn_shard_and_ends_in_the_same_bytes(
    tmp_path: Path, damage: str
) -> None:
    write(tmp_path / "whole", 7)
    folder = tmp_path / "resumed"
    folder.mkdir()
    for number in range(3):
        shutil.copy(tmp_path / f"whole/signals-0000{number}.safetensors", folder)
    torn = folder / "signals-00001.safetensors"
    if damage == "truncated":
        os.truncate(torn, torn.stat().st_size // 2)
    elif damage == "flipped":
        torn.write_bytes(torn.read_bytes()[:-1] + b"?")
    elif damage == "empty":
        torn.write_bytes(b"")
    (folder / ".signals-00003.safetensors.77.tmp").write_bytes(b"half a shard")
    writer = SignalWriter(folder, KEY, TopKCoding(4, (1.0,)), samples_per_shard=2)
    lost = set() if damage == "none" else {"s2", "s3"}
    assert writer.done == {f"s{index}" for index in range(6)} - lost
    for index in range(7):
        if f"s{index}" not in writer.done:
            writer.append(f"s{index}", ANSWER, signal(index), SAMPLE_KEY)
    writer.close()
    assert contents(folder) == contents(tmp_path / "whole")


def test_batch_that_a_kill_cut_in_two_can_be_appended_again(tmp_path: Path) -> None:
    write(tmp_path / "whole", 7)
    writer = SignalWriter(tmp_path / "cut", KEY, TopKCoding(4, (1.0,)), samples_per_shard=2)
    for index in range(3):  # s2 is lost with this writer
        writer.append(f"s{index}", ANSWER, signal(index), SAMPLE_KEY)
    again = SignalWriter(tmp_path / "cut", KEY, TopKCoding(4, (1.0,)), samples_per_shard=2)
    assert again.done == {"s0", "s1"}
    for index in range(7):
        again.append(f"s{index}", ANSWER, signal(index), SAMPLE_KEY)
    again.close()
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    with pytest.raises(DataError, match=r"s0: .*another answer"):
        again.append("s0", [1, 2, 3], signal(0), SAMPLE_KEY)
    with pytest.raises(DataError, match="another images"):
        again.append("s0", ANSWER, signal(0), {**SAMPLE_KEY, "images": "new"})


def test_kill_at_any_moment_loses_at_most_the_unfinished_shard(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_signal_cache import ANSWER, KEY, SAMPLE_KEY, SignalWriter, TopKCoding, signal
        writer = SignalWriter(Path(sys.argv[1]), KEY, TopKCoding(4, (1.0,)), samples_per_shard=2)
        index = 0
        while True:
            writer.append(f"s{{index}}", ANSWER, signal(index), SAMPLE_KEY)
            index += 1
            print(index, flush=True)
    """)
    for stop_after in (4, 33):
        folder = tmp_path / str(stop_after)
        with subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= stop_after:
                    process.send_signal(signals.SIGKILL)
                    break
        writer = SignalWriter(folder, KEY, TopKCoding(4, (1.0,)), samples_per_shard=2)
        assert len(writer.done) >= stop_after - stop_after % 2
        assert not list(folder.glob(".*"))
        for index in range(len(writer.done)):
            assert f"s{index}" in writer.done
        done = len(writer.done)
        writer.close()
        reader = SignalReader(folder, KEY)
        for index in range(done):
            found, expected = reader.get(f"s{index}", ANSWER), signal(index)
            order = expected.ids_NK.argsort(-1)
            assert torch.equal(found.ids_NK, expected.ids_NK.gather(-1, order))
            torch.testing.assert_close(
                found.logp_NK, expected.logp_NK.gather(-1, order), rtol=0, atol=0.02
            )


def test_disk_that_refuses_a_shard_is_named_and_loses_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SignalWriter(tmp_path, KEY, TopKCoding(4, (1.0,)), samples_per_shard=2)
    for index in range(3):
        writer.append(f"s{index}", ANSWER, signal(index), SAMPLE_KEY)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"signals-00001\.safetensors: .*No space left"):
            writer.append("s3", ANSWER, signal(3), SAMPLE_KEY)
    assert writer.done == {"s0", "s1"}
    writer.close()
    assert SignalReader(tmp_path, KEY).sample_ids == ["s0", "s1", "s2", "s3"]


def test_format_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "signals-00000.safetensors"
    opened = open_shard(path, FORMAT)
    samples = [
        ShardSample(sample_id, key, ANSWER)
        for sample_id, key in zip(opened.sample_ids, opened.sample_keys, strict=True)
    ]
    arrays = {name: array for name, array in opened.arrays.items() if name != "answers"}
    assert shard_bytes(FORMAT, opened.key, samples, arrays, opened.parameters) == path.read_bytes()
    newer = shard_bytes("limbeck-top-k-99", opened.key, samples, arrays, opened.parameters)
    path.write_bytes(newer)
    with pytest.raises(DataError, match="limbeck-top-k-99"):
        SignalWriter(tmp_path, KEY, TopKCoding(4, (1.0,)))
    assert path.read_bytes() == newer


def test_index_holds_the_key_and_the_checksums_in_plain_json(tmp_path: Path) -> None:
    write(tmp_path)
    index = json.loads((tmp_path / "signals.json").read_text())
    assert index["key"] == {**KEY, "top_k": 4, "temperatures": [1.0]}
    assert len(index["shards"]) == 3
