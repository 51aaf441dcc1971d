"""Stage folders: what is published is whole, what is broken is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from limbeck.errors import DataError, UsageError
from limbeck.store import MANIFEST, Store, fingerprint, write_atomic


def publish(store: Store, key: str = "k1", content: str = "hello") -> Path:
    with store.make("data", key, identity={"a": 1}) as folder:
        assert folder is not None
        (folder.path / "file.txt").write_text(content)
        folder.summary["rows"] = 3
    return store.folder("data", key)


def test_a_finished_stage_has_a_manifest_that_lists_every_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = publish(store)
    manifest = store.manifest("data", "k1")
    assert manifest["summary"] == {"rows": 3}
    assert set(manifest["files"]) == {"file.txt"}
    assert store.open("data", "k1") == folder
    assert not folder.with_name("k1-partial").exists()


def test_a_stage_that_raises_is_not_published_and_keeps_its_partial_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def stopped_half_way() -> None:
        with store.make("data", "k1", identity={}) as folder:
            assert folder is not None
            (folder.path / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stopped_half_way()
    assert not store.is_complete("data", "k1")
    with store.make("data", "k1", identity={}) as folder:
        assert folder is not None
        assert (folder.path / "half").read_text() == "x"
    assert store.is_complete("data", "k1")


def test_a_finished_stage_is_not_made_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    with store.make("data", "k1", identity={}) as folder:
        assert folder is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "foreign", "list"])
def test_a_damaged_stage_is_refused_with_its_path(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    folder = publish(store)
    file, manifest = folder / "file.txt", folder / MANIFEST
    if damage == "truncate":
        file.write_text("hell")
    elif damage == "flip":
        file.write_text("jello")
    elif damage == "remove":
        file.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:-20])
    elif damage == "foreign":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "fingerprint": "k2"}))
    else:
        manifest.write_text("[]")
    with pytest.raises(DataError) as raised:
        store.open("data", "k1")
    assert str(folder) in str(raised.value)
    assert "remove" in str(raised.value)


def test_every_flipped_byte_of_a_file_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = publish(store, content="0123456789" * 20)
    original = (folder / "file.txt").read_bytes()
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1 << (position % 8)
        (folder / "file.txt").write_bytes(bytes(changed))
        with pytest.raises(DataError, match="changed"):
            store.open("data", "k1")


def test_a_second_process_is_locked_out_or_waits(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from limbeck.store import Store
        with Store(Path(sys.argv[1])).make("data", "k1", identity={}) as folder:
            (folder.path / "file.txt").write_text("first")
            print("held", flush=True)
            time.sleep(1.0)
        """
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        store = Store(tmp_path)
        with (
            pytest.raises(UsageError, match="another process"),
            store.make("data", "k1", identity={}, wait=False),
        ):
            pass
        with store.make("data", "k1", identity={}) as folder:
            assert folder is None, "the first process published the stage while this one waited"
    assert (store.open("data", "k1") / "file.txt").read_text() == "first"


def test_a_failed_write_keeps_the_old_file_and_names_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left") as raised:
        write_atomic(path, "new")
    assert str(path) in str(raised.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_fingerprints_ignore_the_order_of_keys_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
