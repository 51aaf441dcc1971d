"""A model's shape from what is on disk: config.json and the headers of its safetensors files.

A header lists every tensor's name, precision and shape, so that parameters are counted and not
computed, and no weight is read. Format: huggingface.co/docs/safetensors, eight bytes with the
header's length, then JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.errors import UsageError
from limbeck.planning.shape import Counted, Piece, Shape, Sizes

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the format's own reader."""
_VISION = re.compile(r"(^|\.)(visual|vision_tower|vision_model|vision_encoder)\.")
_PROJECTOR = re.compile(
    r"(^|\.)(merger|deepstack_merger_list|multi_modal_projector|connector|image_newline)(\.|$)"
)
_LAYER = re.compile(r"(^|\.)(?:layers|blocks)\.(\d+)\.")
_UNMAPPED = re.compile(r"embed|position|lm_head|class_embedding|norm")
"""Tensors with two axes that are no weight of a linear layer that is quantised or adapted."""

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Name -> precision and shape."""


def shape_in(folder: Path, *, what: str | None = None) -> Shape:
    """The shape of the model in a folder.

    Args:
        folder: in Hugging Face layout.
        what: how `source` calls it; default: the folder.

    Raises:
        UsageError: a file cannot be read, or this is no vision-language model as we know them.
    """
    config = _json(folder / "config.json")
    return _shape(config, dict(headers(folder)), what or f"weights in {folder}", folder)


def joined(vision: Path, language: Path) -> Shape:
    """The shape of a LLaVA whose vision encoder and language model are in two folders.

    It is written in float32; the two-layer projector between them is new (`models/compose.py`).

    Raises:
        UsageError: as `shape_in`.
    """
    tensors: Tensors = {}
    for name, one in headers(vision):
        if not name.startswith(("text_model.", "text_projection", "logit_")):
            tensors[f"vision_tower.{name}"] = one
    tensors |= dict(headers(language))
    config = {
        "model_type": "llava",
        "text_config": _json(language / "config.json"),
        "vision_config": _json(vision / "config.json"),
    }
    config["tie_word_embeddings"] = config["text_config"].get("tie_word_embeddings")
    source = f"weights in {vision} and {language}"
    alone = _shape(config, tensors, source, vision).sizes
    width = alone.width
    for number, inputs in ((1, alone.vision_width), (2, width)):
        tensors[f"multi_modal_projector.linear_{number}.weight"] = ("F32", (width, inputs))
        tensors[f"multi_modal_projector.linear_{number}.bias"] = ("F32", (width,))
    return replace(_shape(config, tensors, source, vision), stored="float32")


def _shape(config: dict[str, Any], tensors: Tensors, source: str, where: Path) -> Shape:
    try:
        sizes = _sizes(config, tensors)
    except (StopIteration, ValueError, IndexError) as error:
        raise UsageError(
            "no vision tower and language model of known names are in its weights",
            where=str(where),
        ) from error
    pieces: dict[Piece, Counted] = {
        piece: Counted() for piece in ("vision_tower", "projector", "language_model")
    }
    pieces |= {"embedding": Counted(), "head": Counted()}
    layered: dict[Piece, Counted] = {"vision_tower": Counted(), "language_model": Counted()}
    for name, (_, dimensions) in tensors.items():
        piece = piece_of(name)
        one = _counted(name, dimensions)
        if piece == "head" and sizes.tied:
            continue  # some checkpoints store it although it is the embedding
        pieces[piece] += one
        if piece in layered and _LAYER.search(name):
            layered[piece] += one
    stored = Counter(dtype for dtype, _ in tensors.values()).most_common(1)[0][0]
    layers = {"vision_tower": sizes.vision_layers, "language_model": sizes.layers}
    return Shape(
        sizes,
        pieces,
        {p: _share(one, layers[p]) for p, one in layered.items()},
        DTYPES.get(stored, stored),
        source,
    )


def headers(folder: Path) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Every tensor of a folder's safetensors files: name, precision and shape.

    Raises:
        UsageError: a file is torn.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                if not 0 < length <= LONGEST_HEADER:
                    raise ValueError(f"a header of {length} bytes")
                found = json.loads(stream.read(length))
            for name, one in found.items():
                if name != "__metadata__":
                    yield name, (str(one["dtype"]), tuple(one["shape"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"the header cannot be read ({error})",
                where=str(path),
                mend="download the model again",
            ) from error


def piece_of(name: str) -> Piece:
    """To which piece of a model a tensor belongs, by its name."""
    if _PROJECTOR.search(name):
        return "projector"
    if _VISION.search(name):
        return "vision_tower"
    if re.search(r"(^|\.)lm_head\.", name):
        return "head"
    return "embedding" if "embed_tokens" in name else "language_model"


def _counted(name: str, dimensions: tuple[int, ...]) -> Counted:
    total = math.prod(dimensions)
    if len(dimensions) != 2 or not name.endswith(".weight") or _UNMAPPED.search(name):
        return Counted(total)
    return Counted(total, total, sum(dimensions), dimensions[0])


def _share(one: Counted, layers: int) -> Counted:
    return Counted(
        *(number // layers for number in (one.total, one.matrices, one.adapted, one.rows))
    )


def _sizes(config: dict[str, Any], tensors: Tensors) -> Sizes:
    """Sizes by the shapes of the weights; only what no shape tells comes from config.json."""
    text = {**config, **(config.get("text_config") or {})}
    vision = config.get("vision_config") or {}

    def shape_of(piece: Piece, pattern: str) -> tuple[int, ...]:
        return next(
            dimensions
            for name, (_, dimensions) in tensors.items()
            if piece_of(name) == piece and re.search(pattern, name) and name.endswith("weight")
        )

    def layers_of(piece: Piece) -> int:
        own = (_LAYER.search(name) for name in tensors if piece_of(name) == piece)
        return 1 + max(int(found[2]) for found in own if found)

    vocabulary, width = shape_of("embedding", "embed_tokens")
    queries, shared = shape_of("language_model", r"q_proj"), shape_of("language_model", r"k_proj")
    gate = shape_of("language_model", r"gate_proj|up_proj|fc1")
    patch = shape_of("vision_tower", r"patch_embed")
    inner = shape_of("vision_tower", r"fc1|gate_proj|up_proj")
    merge = int(vision.get("spatial_merge_size") or config.get("scale_factor") or 1)
    if str(config.get("model_type", "")).startswith("qwen"):
        merge = int(vision.get("spatial_merge_size") or 2)  # what the classes take for granted
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    return Sizes(
        family=str(config.get("model_type", "")),
        vocabulary=vocabulary,
        width=width,
        layers=layers_of("language_model"),
        intermediate=gate[0],
        heads=int(text.get("num_attention_heads") or max(1, queries[0] // 128)),
        query_width=queries[0],
        key_value_width=shared[0],
        vision_width=patch[0],
        vision_layers=layers_of("vision_tower"),
        vision_intermediate=inner[0],
        vision_heads=int(vision.get("num_heads") or vision.get("num_attention_heads") or 16),
        patch_side=patch[-1],
        patches_per_token=merge**2,
        frames=patch[2] if len(patch) == 5 else 1,
        tied=bool(tied) or not any(piece_of(name) == "head" for name in tensors),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(path)) from error
