"""The teacher's inner states, live or from a cache on disk, behind one seam.

A cache is what a stage of its own leaves: blocks of samples, each state as int8 with a scale a row
(the largest absolute value over 127), in safetensors files that are mapped into memory.

    features.json         taps, the teacher's shape, samples and their blocks, error of the coding
    features-00000.safetensors
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from limbeck.errors import DataError
from limbeck.records import Features, ModelShape, Tap
from limbeck.store import write_atomic, write_json

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "features.json"
LARGEST = 127
SMALLEST_SCALE = 1e-12
SAMPLES_PER_BLOCK = 32


class FeatureSource(Protocol):
    """Where a teacher's inner states come from."""

    shape: ModelShape

    def features(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Features:
        """States of these samples along these answers (token ids of the student's tokenizer).

        Raises:
            DataError: a sample is not held, or was read along an answer of another length.
        """
        ...


class LiveFeatures:
    """A `FeatureSource` that asks a teacher which runs while the student trains."""

    def __init__(
        self,
        shape: ModelShape,
        features_of: Callable[[Sequence[str], Sequence[Sequence[int]]], Features],
    ) -> None:
        self.shape, self._features_of = shape, features_of

    def features(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Features:
        """See `FeatureSource`."""
        return self._features_of(sample_ids, answers)


class FeatureWriter:
    """A cache that is being made; a kill loses the block that is not finished.

    Args:
        folder: of the stage; whole blocks of an earlier run are kept.
        taps: which states.
        shape: of the teacher.
    """

    def __init__(self, folder: Path, taps: Sequence[Tap], shape: ModelShape) -> None:
        self._folder, self._taps, self._shape = folder, tuple(taps), shape

    def is_whole(self, number: int, sample_ids: Sequence[str]) -> bool:
        """Whether a block is there and holds these samples."""
        try:
            noted = json.loads(_note(self._folder, number).read_text())
        except (FileNotFoundError, ValueError):
            return False
        return noted["samples"] == list(sample_ids) and _block(self._folder, number).is_file()

    def write(self, number: int, sample_ids: Sequence[str], found: Features) -> None:
        """Write the block of these samples; its note comes last."""
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        squares = errors = 0.0
        for tap_number, tap in enumerate(self._taps):
            for at, state in enumerate(found.tensors[tap]):
                codes, scales = coded(state)
                difference = decoded(codes, scales) - state.float().cpu()
                errors += float(difference.square().sum())
                squares += float(state.float().square().sum())
                tensors[f"{at}/{tap_number}/codes"] = codes
                tensors[f"{at}/{tap_number}/scales"] = scales
        write_atomic(_block(self._folder, number), save(tensors))
        noted = {
            "samples": list(sample_ids),
            "grids": found.grids,
            "squares": squares,
            "errors": errors,
        }
        write_json(_note(self._folder, number), noted)

    def close(self, blocks: int) -> dict[str, Any]:
        """Write the index; returns samples, bytes, and the relative error of the coding."""
        notes = [json.loads(_note(self._folder, n).read_text()) for n in range(blocks)]
        squares, errors = (sum(note[name] for note in notes) for name in ("squares", "errors"))
        summary = {
            "samples": sum(len(note["samples"]) for note in notes),
            "bytes": sum(_block(self._folder, n).stat().st_size for n in range(blocks)),
            "relative_error": (errors / squares) ** 0.5 if squares else 0.0,
        }
        index = {
            "taps": [asdict(tap) for tap in self._taps],
            "shape": asdict(self._shape),
            "blocks": [{"samples": n["samples"], "grids": n["grids"]} for n in notes],
            "statistics": summary,
        }
        write_json(self._folder / INDEX, index)
        for number in range(blocks):
            _note(self._folder, number).unlink()
        return summary


class FeatureCache:
    """A `FeatureSource` that reads a finished cache; random access by sample id.

    Raises:
        DataError: the folder holds no finished cache.
    """

    def __init__(self, folder: Path) -> None:
        try:
            index = json.loads((folder / INDEX).read_text())
        except (OSError, ValueError) as error:
            raise DataError(
                "the cache of the teacher's inner states is not finished",
                where=str(folder),
                mend="remove the folder and run again",
            ) from error
        self._folder = folder
        self.shape = ModelShape(**index["shape"])
        self._taps = [Tap(**tap) for tap in index["taps"]]
        self._places: dict[str, tuple[int, int]] = {}
        self._grids: dict[str, Any] = {}
        for number, block in enumerate(index["blocks"]):
            for at, sample_id in enumerate(block["samples"]):
                self._places[sample_id] = number, at
                grids = block["grids"][at]
                self._grids[sample_id] = grids and tuple(tuple(grid) for grid in grids)
        self._opened: dict[int, Any] = {}

    def features(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Features:
        """See `FeatureSource`."""
        tensors: dict[Tap, tuple[Tensor, ...]] = {}
        for tap_number, tap in enumerate(self._taps):
            states = tuple(self._state(sample_id, tap_number) for sample_id in sample_ids)
            if tap.kind != "vision":
                for sample_id, state, answer in zip(sample_ids, states, answers, strict=True):
                    if len(state) != len(answer):
                        raise DataError(
                            f"states of {len(state)} answer tokens, asked for {len(answer)}",
                            where=f"{self._folder}: {sample_id}",
                            mend="teacher and student must cut answers into the same tokens",
                        )
            tensors[tap] = states
        return Features(tensors, tuple(self._grids[sample_id] for sample_id in sample_ids))

    def _state(self, sample_id: str, tap_number: int) -> Tensor:
        from safetensors import safe_open

        if sample_id not in self._places:
            raise DataError(
                "the cache holds no states of this sample", where=f"{self._folder}: {sample_id}"
            )
        number, at = self._places[sample_id]
        if number not in self._opened:
            self._opened[number] = safe_open(_block(self._folder, number), framework="pt")
        name = f"{at}/{tap_number}"
        block = self._opened[number]
        return decoded(block.get_tensor(f"{name}/codes"), block.get_tensor(f"{name}/scales"))


class JoinedFeatures:
    """Several caches of one teacher as one source: the states of all of them."""

    def __init__(self, sources: Sequence[FeatureSource]) -> None:
        self._sources = list(sources)
        self.shape = sources[0].shape

    def features(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Features:
        """See `FeatureSource`."""
        found = [source.features(sample_ids, answers) for source in self._sources]
        tensors: Mapping[Tap, tuple[Tensor, ...]] = {
            tap: states for one in found for tap, states in one.tensors.items()
        }
        return Features(tensors, found[0].grids)


def concatenated(parts: Sequence[Features]) -> Features:
    """The samples of several batches one after the other."""
    tensors = {
        tap: tuple(state for part in parts for state in part.tensors[tap])
        for tap in parts[0].tensors
    }
    return Features(tensors, tuple(grids for part in parts for grids in part.grids))


def coded(state: Tensor) -> tuple[Tensor, Tensor]:
    """A state [n, C] as int8 codes, and a scale for each of its rows [n, 1]."""
    import torch

    state = state.detach().float().cpu()
    largest = state.abs().amax(-1, keepdim=True) if state.numel() else state.sum(-1, keepdim=True)
    scales = (largest / LARGEST).clamp(min=SMALLEST_SCALE)
    return (state / scales).round().to(torch.int8), scales


def decoded(codes: Tensor, scales: Tensor) -> Tensor:
    """Undo `coded`, in float32."""
    return codes.float() * scales


def _block(folder: Path, number: int) -> Path:
    return folder / f"features-{number:05d}.safetensors"


def _note(folder: Path, number: int) -> Path:
    return folder / f"features-{number:05d}.json"
