"""Ids come back exactly, whatever their set."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.signals.elias_fano import decode, encode, row_bytes

SIZES = [(1, 1), (1, 1 << 18), (2, 2), (7, 8), (64, 64), (64, 65), (64, 151_665), (3, 1 << 18),
         (500, 1 << 18), (4096, 4096)]  # fmt: skip


@pytest.mark.parametrize(("kept", "universe"), SIZES)
def test_adversarial_sets_come_back_exactly(kept: int, universe: int) -> None:
    chance = np.random.default_rng(0)
    rows = [
        np.arange(kept),  # a dense run at the start
        np.arange(universe - kept, universe),  # one at the end
        np.append(np.arange(kept - 1), universe - 1),  # all low, and the last
        np.linspace(0, universe - 1, kept).astype(int),
        *(np.sort(chance.permutation(universe)[:kept]) for _ in range(20)),
    ]
    ids = np.stack(rows)
    packed = encode(ids, universe)
    assert packed.shape == (len(rows), row_bytes(kept, universe))
    assert np.array_equal(decode(packed, kept, universe), ids)
    for row in (3, 0, 1):
        assert np.array_equal(decode(packed[row : row + 1], kept, universe)[0], ids[row])
    assert decode(packed[:0], kept, universe).shape == (0, kept)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1 << 18), st.data())
def test_any_set_comes_back_exactly(universe: int, data: st.DataObject) -> None:
    ids = data.draw(st.sets(st.integers(0, universe - 1), min_size=1, max_size=80))
    row = np.array([sorted(ids)])
    assert np.array_equal(decode(encode(row, universe), len(ids), universe), row)


@pytest.mark.parametrize(("kept", "universe"), [(k, u) for k, u in SIZES if u > 4 * k])
def test_a_row_takes_hardly_more_than_its_information(kept: int, universe: int) -> None:
    information = math.log2(math.comb(universe, kept)) if kept < 100 else kept * 10.5
    assert row_bytes(kept, universe) * 8 <= information + kept * 0.75 + 24
    assert row_bytes(64, 151_665) == 106
