"""One block of the cache of vision features: a safetensors file, and a JSON file written after it.

    prompt/<sample id>/ids, /visual_tokens     the prompt
    aligned/<sample id>/<name>                 further tensors along it
    picture/<group>/<name>                     what stays beside the pixels, such as sizes
    rows/<group>/<name>                        features [visual tokens, H] as computed, or codes
    steps/<group>/<name>, scales//<name>       with int8, see feature_coding.py

The JSON file names coding, samples and checksum; a block without it is not whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from limbeck.data.tokens import Encoded
from limbeck.records import Sample
from limbeck.store import file_sha256, write_atomic, write_json
from limbeck.training import feature_coding
from limbeck.training.feature_coding import NO_ERROR, CodingError


@dataclass(frozen=True)
class BlockFacts:
    """What is known of a block without reading it; `worst` is its group of the largest error."""

    groups: int
    visual_tokens: int
    bytes: int
    error: CodingError
    worst: float


class BlockReader:
    """Prompts of a block, with features in place of pixels."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")
        self._dtype: torch.dtype = getattr(torch, self._file.metadata()["dtype"])
        self._names: dict[tuple[str, str], list[str]] = {}
        for key in self._file.keys():  # noqa: SIM118 (it is no dict)
            kind, rest = key.split("/", 1)
            owner, name = rest.rsplit("/", 1)
            self._names.setdefault((kind, owner), []).append(name)
        self._scales = self._named("scales", "")

    def prompt(self, sample_id: str, group: int) -> Encoded:
        """The sample without an answer."""
        prompt = self._named("prompt", sample_id)
        rows, steps = (self._named(kind, str(group)) for kind in ("rows", "steps"))
        if steps:
            rows = {
                name: feature_coding.decode(codes, steps[name], self._scales[name], self._dtype)
                for name, codes in rows.items()
            }
        features = {**self._named("picture", str(group)), **rows}
        ids_L = prompt["ids"]
        visual_tokens = int(prompt["visual_tokens"])
        return Encoded(
            ids_L, len(ids_L), self._named("aligned", sample_id), features, visual_tokens
        )

    def _named(self, kind: str, owner: str) -> dict[str, Tensor]:
        names = self._names.get((kind, owner), ())
        return {name: self._file.get_tensor(f"{kind}/{owner}/{name}") for name in names}


def write_block(
    path: Path,
    block: Sequence[Sequence[Sample]],
    prompts: Sequence[Sequence[Encoded]],
    features: Sequence[Mapping[str, Tensor]],
    coding: str,
) -> None:
    """Write groups of samples with the same pictures: their prompts and one set of features each.

    Raises:
        DataError: the disk is full, or another reason not to write.
    """
    tensors: dict[str, Tensor] = {}
    for number, (samples, items) in enumerate(zip(block, prompts, strict=True)):
        for sample, item in zip(samples, items, strict=True):
            tensors[f"prompt/{sample.id}/ids"] = item.input_ids_L
            tensors[f"prompt/{sample.id}/visual_tokens"] = torch.tensor(item.visual_tokens)
            tensors |= {f"aligned/{sample.id}/{n}": tensor for n, tensor in item.aligned.items()}
        tensors |= {f"picture/{number}/{n}": tensor for n, tensor in items[0].features.items()}
    if coding == "int8":
        coded, errors = _coded(features)
        tensors |= coded
    else:
        errors = [NO_ERROR] * len(features)
        for number, one in enumerate(features):
            tensors |= {f"rows/{number}/{name}": rows for name, rows in one.items()}
    dtype = str(next(iter(features[0].values())).dtype).removeprefix("torch.")
    content = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    write_atomic(path, save(content, metadata={"dtype": dtype}))
    total = sum(errors, NO_ERROR)
    write_json(
        path.with_suffix(".json"),
        {
            **_identity(block, coding),
            "sha256": file_sha256(path),
            "visual_tokens": sum(items[0].visual_tokens for items in prompts),
            "squares": total.squares,
            "lost": total.lost,
            "worst": max(error.relative for error in errors),
        },
    )


def is_whole(path: Path, block: Sequence[Sequence[Sample]], coding: str) -> bool:
    """Whether the block is there, undamaged, of these samples and in this coding."""
    try:
        noted = json.loads(path.with_suffix(".json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    wanted = _identity(block, coding)
    same = isinstance(noted, dict) and {name: noted.get(name) for name in wanted} == wanted
    return same and path.is_file() and noted.get("sha256") == file_sha256(path)


def facts_of(path: Path) -> BlockFacts:
    """Read from the JSON file of a whole block."""
    noted = json.loads(path.with_suffix(".json").read_text())
    error = CodingError(noted["squares"], noted["lost"])
    groups, tokens = len(noted["samples"]), noted["visual_tokens"]
    return BlockFacts(groups, tokens, path.stat().st_size, error, noted["worst"])


def path_of(folder: Path, number: int) -> Path:
    """Where a block is."""
    return folder / f"block-{number:05d}.safetensors"


def _identity(block: Sequence[Sequence[Sample]], coding: str) -> dict[str, Any]:
    return {"coding": coding, "samples": [[sample.id for sample in group] for group in block]}


def _coded(features: Sequence[Mapping[str, Tensor]]) -> tuple[dict[str, Tensor], list[CodingError]]:
    """Codes, steps and scales of all groups, and what each group lost."""
    names = list(features[0])
    scales = {n: feature_coding.channel_scales([one[n] for one in features]) for n in names}
    tensors = {f"scales//{name}": scales_H for name, scales_H in scales.items()}
    errors: list[CodingError] = []
    for number, one in enumerate(features):
        lost = NO_ERROR
        for name, rows_TH in one.items():
            codes_TH, steps_T = feature_coding.encode(rows_TH, scales[name])
            tensors[f"rows/{number}/{name}"] = codes_TH
            tensors[f"steps/{number}/{name}"] = steps_T
            decoded = feature_coding.decode(codes_TH, steps_T, scales[name], rows_TH.dtype)
            lost += feature_coding.coding_error(rows_TH, decoded)
        errors.append(lost)
    return tensors, errors
