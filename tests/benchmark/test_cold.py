import os
import sys

import pytest

from limbeck.benchmark import cold
from limbeck.benchmark.cold import drop_from_page_cache, share_in_memory

MIB = 2**20


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(8 * MIB))
    (tmp_path / "empty").touch()
    return [path, tmp_path / "empty"]


@pytest.mark.skipif(sys.platform != "linux", reason="mincore and posix_fadvise as Linux has them")
def test_files_are_dropped_from_the_page_cache_and_what_is_left_is_counted(written):
    assert share_in_memory(written) > 0.9, "it was just written"
    found = drop_from_page_cache(written)
    assert found["before"] > 0.9
    assert found["after"] == share_in_memory(written)
    if found["after"] > 0.01:
        assert not found["dropped"]
        assert "could not be dropped" in found["state"]
        pytest.skip("this file system keeps its files in memory")
    assert found["dropped"]
    assert "dropped" in found["state"]
    assert written[0].read_bytes()
    assert share_in_memory(written) > 0.9, "looking does not read, and reading is seen"


def test_what_stays_in_memory_is_said(written, monkeypatch):
    monkeypatch.setattr(cold, "share_in_memory", lambda files: 0.43)
    assert "could not be dropped from it (43% are still" in drop_from_page_cache(written)["state"]
    monkeypatch.setattr(cold, "share_in_memory", lambda files: None)
    assert "does not tell" in drop_from_page_cache(written)["state"]


def test_a_system_without_the_call_leaves_the_cache_as_it_was(written, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert "left as it was" in drop_from_page_cache(written)["state"]


def test_no_file_has_no_share():
    assert share_in_memory([]) is None
