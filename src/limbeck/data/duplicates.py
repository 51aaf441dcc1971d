"""Pictures that show the same thing: one picture stored twice, in another format, size or quality.

Three steps, each far cheaper than the next. A 64-bit perceptual hash (signs of the lowest cosine
coefficients of the 32x32 grey picture against their median, as pHash does) gives candidates within
`RADIUS` bits; a 16x16 thumbnail kept from decoding throws most of them out; what is left is opened
again and compared at the size of the smaller of the two, block by block.

The last step is what tells screens of one application apart: a dialog with another box ticked has
the hash of its neighbour, and one block that differs by far more than compression ever changes.
Not found are crops, turned pictures and neighbouring frames of a video, which are other pictures,
and pictures of one colour, which have nothing to be told by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

RADIUS = 7
"""Bits in which the hashes of one picture may differ. With `BANDS` of 16 bits one band differs in
at most a bit, so that looking up each band and its 16 neighbours misses no pair."""

BANDS = 4
HASHED_SIDE_PIXELS = 32
THUMBNAIL_SIDE_PIXELS = 16
BLOCK_PIXELS = 8

MAX_THUMBNAIL_DIFFERENCE = 24
"""Of 255, in any pixel and channel of the thumbnails."""

MAX_BLOCK_DIFFERENCE = 30
"""Of 255, see `block_difference`. On 200 of 1,221 real screenshots and 150 synthetic screens, JPEG
and WebP at quality 50 to 90, palettes of 64 colours, halving and enlarging changed at most 28; of
the different pictures among the 1,221 and among 22,000 synthetic screens, the closest had 43."""

MIN_CONTRAST = 8
"""Of 255, between the darkest and the brightest part: below it a picture is of one colour."""

MAX_COMPARED = 10_000
"""Pairs of pictures that are opened; beyond them the rest is counted and not compared."""

PAIRS_AT_ONCE = 1 << 20
THUMBNAILS_AT_ONCE = 1 << 14

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Look:
    """What is kept of a decoded picture: its hash, its size and a thumbnail [16, 16, 3]."""

    hash: int
    width: int
    height: int
    thumbnail: NDArray[np.uint8]


@dataclass(frozen=True)
class SamePictures:
    """The groups of names that show one picture, the first name first; `not_compared` pairs."""

    groups: list[list[str]] = field(default_factory=lambda: [])
    not_compared: int = 0

    def first_of(self) -> dict[str, str]:
        """Name -> the first name of its group, for the names that are in one."""
        return {name: group[0] for group in self.groups for name in group}


def look_of(image: Image) -> Look | None:
    """Hash and thumbnail of an upright RGB picture; None where it is of one colour."""
    from PIL.Image import Resampling

    side = HASHED_SIDE_PIXELS
    # The large picture is read once, and by whole boxes first, which is much the cheapest.
    middle = image.resize((2 * side,) * 2, Resampling.BICUBIC, reducing_gap=2.0)
    grey = np.asarray(middle.convert("L").resize((side, side), Resampling.BICUBIC), np.float64)
    if grey.max() - grey.min() < MIN_CONTRAST:
        return None
    waves = _cosines()
    coefficients = (waves @ grey @ waves.T).ravel()
    bits = coefficients > np.median(coefficients[1:])
    # Neighbouring coefficients go together: dealt out over the bands, none is the same for all.
    value = sum(1 << (i % BANDS * 16 + i // BANDS) for i, bit in enumerate(bits) if bit)
    small = middle.resize((THUMBNAIL_SIDE_PIXELS,) * 2, Resampling.BICUBIC)
    return Look(value, image.width, image.height, np.asarray(small, np.uint8))


def same_pictures(looks: Mapping[str, Look], open_picture: Callable[[str], Image]) -> SamePictures:
    """Which of the named pictures are copies of one another.

    Args:
        looks: name -> look, in the order in which the first of a group is chosen.
        open_picture: the picture of a name, as `look_of` saw it.
    """
    names = list(looks)
    first = list(range(len(names)))

    def leader(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    @lru_cache(maxsize=64)
    def brightness(name: str) -> Image:
        return open_picture(name).convert("L")

    compared = not_compared = 0
    for i, j in _candidates(list(looks.values())):
        a, b = leader(i), leader(j)
        if a == b:
            continue
        if compared == MAX_COMPARED:
            not_compared += 1
            continue
        compared += 1
        if block_difference(brightness(names[i]), brightness(names[j])) <= MAX_BLOCK_DIFFERENCE:
            first[max(a, b)] = min(a, b)
    groups: dict[int, list[str]] = {}
    for i, name in enumerate(names):
        groups.setdefault(leader(i), []).append(name)
    return SamePictures([group for group in groups.values() if len(group) > 1], not_compared)


def block_difference(a: Image, b: Image) -> float:
    """How far two grey pictures are apart where they differ most, 0 to 255.

    At the size of the smaller, smoothed over 2x2 pixels (which edges that were resampled lose
    little by): the largest root mean square difference of a block of 8x8 pixels.
    """
    from PIL.Image import Resampling

    block = BLOCK_PIXELS
    width = max(block, min(a.width, b.width) // block * block)
    height = max(block, min(a.height, b.height) // block * block)
    pixels = [np.asarray(i.resize((width, height), Resampling.BICUBIC), np.float32) for i in (a, b)]
    apart = np.pad(pixels[0] - pixels[1], ((0, 1), (0, 1)), mode="edge")
    smooth = (apart[:-1, :-1] + apart[1:, :-1] + apart[:-1, 1:] + apart[1:, 1:]) / 4
    blocks = smooth.reshape(height // block, block, width // block, block)
    return float(np.sqrt(np.square(blocks).mean((1, 3)).max()))


def hash_pairs(hashes_N: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """All pairs i < j of hashes within `RADIUS` bits, by multi-index hashing.

    Norouzi, Punjani and Fleet 2012: of 4 bands of two hashes that differ in at most 7 bits, one
    differs in at most 1.
    """
    found = [np.zeros(0, np.int64)]
    n = len(hashes_N)
    for band in range(BANDS):
        keys_N = ((hashes_N >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64)
        order_N = np.argsort(keys_N, kind="stable")
        sorted_N = keys_N[order_N]
        for flipped in (0, *(1 << bit for bit in range(16))):
            start_N = np.searchsorted(sorted_N, keys_N ^ flipped, "left")
            stop_N = np.searchsorted(sorted_N, keys_N ^ flipped, "right")
            for i_P, offset_P in _expanded(stop_N - start_N):
                j_P = order_N[start_N[i_P] + offset_P]
                i_P, j_P = i_P[i_P < j_P], j_P[i_P < j_P]
                near_P = np.bitwise_count(hashes_N[i_P] ^ hashes_N[j_P]) <= RADIUS
                found.append(np.unique(i_P[near_P] * n + j_P[near_P]))
    pairs_P = np.unique(np.concatenate(found))
    return pairs_P // max(n, 1), pairs_P % max(n, 1)


def _candidates(looks: list[Look]) -> list[tuple[int, int]]:
    """Pairs whose hashes, shapes and thumbnails allow that they are one picture."""
    if len(looks) < 2:
        return []
    hashes_N = np.array([look.hash for look in looks], np.uint64)
    sizes_N2 = np.array([(look.width, look.height) for look in looks], np.int64)
    thumbnails = np.stack([look.thumbnail for look in looks]).astype(np.int16)
    means_N3 = thumbnails.mean((1, 2))
    order_N = np.argsort(hashes_N, kind="stable")
    unique_U, start_U, count_U = np.unique(hashes_N[order_N], return_index=True, return_counts=True)
    left_P, right_P = hash_pairs(unique_U)
    every_U = np.arange(len(unique_U))  # pictures of one hash are candidates too
    left_P, right_P = np.concatenate([every_U, left_P]), np.concatenate([every_U, right_P])
    found: list[tuple[int, int]] = []
    for pair_Q, number_Q in _expanded(count_U[left_P] * count_U[right_P]):
        a_Q, b_Q = left_P[pair_Q], right_P[pair_Q]
        i_Q = order_N[start_U[a_Q] + number_Q // count_U[b_Q]]
        j_Q = order_N[start_U[b_Q] + number_Q % count_U[b_Q]]
        kept_Q = (a_Q != b_Q) | (i_Q < j_Q)
        kept_Q &= (np.abs(means_N3[i_Q] - means_N3[j_Q]) <= MAX_THUMBNAIL_DIFFERENCE).all(-1)
        kept_Q &= _same_shape(sizes_N2[i_Q], sizes_N2[j_Q])
        found += _like_thumbnails(thumbnails, i_Q[kept_Q], j_Q[kept_Q])
    return sorted(found)


def _like_thumbnails(thumbnails: NDArray[np.int16], i_P: Ints, j_P: Ints) -> list[tuple[int, int]]:
    """The pairs whose thumbnails are alike, the smaller index first."""
    found: list[tuple[int, int]] = []
    for start in range(0, len(i_P), THUMBNAILS_AT_ONCE):
        i, j = i_P[start : start + THUMBNAILS_AT_ONCE], j_P[start : start + THUMBNAILS_AT_ONCE]
        close = np.abs(thumbnails[i] - thumbnails[j]).max((1, 2, 3)) <= MAX_THUMBNAIL_DIFFERENCE
        low, high = np.minimum(i, j)[close], np.maximum(i, j)[close]
        found += zip(low.tolist(), high.tolist(), strict=True)
    return found


def _expanded(counts_N: Ints) -> Iterator[tuple[Ints, Ints]]:
    """For each i the numbers 0 to counts[i] - 1, as (i, number), in pieces."""
    ends_N = np.cumsum(counts_N)
    start = 0
    while start < len(counts_N):
        base = int(ends_N[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends_N, base + PAIRS_AT_ONCE, "right")))
        counts = counts_N[start:stop]
        i_P = np.repeat(np.arange(start, stop), counts)
        begin_P = np.repeat(np.cumsum(counts) - counts, counts)
        yield i_P, np.arange(len(i_P)) - begin_P
        start = stop


def _same_shape(a_P2: Ints, b_P2: Ints) -> NDArray[np.bool_]:
    """Whether one size can be the other scaled, sides rounded to whole pixels."""
    crossed_P = np.abs(a_P2[:, 0] * b_P2[:, 1] - a_P2[:, 1] * b_P2[:, 0])
    return crossed_P <= np.maximum(a_P2.sum(-1), b_P2.sum(-1))


@lru_cache(maxsize=1)
def _cosines() -> Any:
    """The eight lowest cosine waves over the hashed side [8, 32] (DCT-II)."""
    side = HASHED_SIDE_PIXELS
    return np.cos(math.pi / side * np.outer(np.arange(8), np.arange(side) + 0.5))
