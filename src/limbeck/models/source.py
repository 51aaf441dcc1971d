"""Where a model's files are on this machine, and what identifies them. No torch, no network.

A hub id is looked up in the local cache (which respects HF_HOME); nothing is ever downloaded.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from limbeck.errors import UsageError
from limbeck.recipe.sections import ModelSection
from limbeck.store import file_sha256

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What a folder of peft holds."""

_DEFINING = {".json", ".txt", ".jinja", ".model", ".py", ".tiktoken"}
_TOKENIZER_FILES = (
    "tokenizer",
    "special",
    "added",
    "vocab",
    "merges",
    "chat",
    "spiece",
    "sentence",
)
"""How the names of a tokenizer's files begin."""

_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_NO_WEIGHTS = {"training_args.bin", "optimizer.pt", "scheduler.pt"}


def model_identity(section: ModelSection) -> dict[str, Any]:
    """What identifies the model that a section names, for fingerprints.

    A folder is identified by the content of its small files and by size and time of its weights;
    a hub id by the commit that is in the local cache.

    Raises:
        UsageError: the model is not on this machine, or its weights are not safetensors.
    """
    adapter = adapter_identity(section)
    if section.build is not None:
        return {"build": section.build.model_dump(mode="json"), **adapter}
    if section.compose is not None:
        parts = section.compose
        return {
            "compose": parts.model_dump(mode="json"),
            "vision": identity_of(parts.vision, parts.vision_revision),
            "language": identity_of(parts.language, parts.language_revision),
            **adapter,
        }
    assert section.model is not None
    return {**identity_of(section.model, section.revision), **adapter}


def adapter_identity(section: ModelSection) -> dict[str, Any]:
    """The content of the adapter that a section names; nothing where it names none.

    Raises:
        UsageError: the folder holds no adapter, or a pickled one.
    """
    if section.adapter_path is None:
        return {}
    folder = adapter_folder(section.adapter_path)
    return {"adapter": {name: file_sha256(folder / name) for name in ADAPTER_FILES}}


def adapter_folder(path: str) -> Path:
    """The folder of a peft adapter with safe weights.

    Raises:
        UsageError: it holds no adapter, or a pickled one.
    """
    folder = Path(path).expanduser()
    for name in ADAPTER_FILES:
        if not (folder / name).is_file():
            pickled = sorted(p.name for p in folder.glob("adapter_model.*"))
            if pickled and name != ADAPTER_FILES[0]:
                raise _pickled(folder, pickled[0])
            raise UsageError(
                f"is not the folder of a peft adapter, it has no {name}",
                where=f"adapter_path: {path}",
                mend="give the folder that peft's save_pretrained wrote",
            )
    return folder


def model_config(section: ModelSection) -> dict[str, Any]:
    """The content of config.json of the model that a section names.

    Raises:
        UsageError: as `model_identity`.
    """
    assert section.model is not None, "a built or composed model has no configuration yet"
    return _read_json(model_folder(section.model, section.revision) / "config.json")


def identity_of(name: str, revision: str | None = None) -> dict[str, Any]:
    """As `model_identity`, of a hub id or a folder."""
    folder = model_folder(name, revision)
    if not Path(name).expanduser().is_dir():
        return {"model": name, "commit": folder.name}
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    content = {p.name: file_sha256(p) for p in files if p.suffix in _DEFINING}
    states = {p.name: p.stat() for p in files if p.suffix == ".safetensors"}
    weights = {weight: [state.st_size, state.st_mtime_ns] for weight, state in states.items()}
    return {"files": content, "weights": weights}


def model_folder(name: str, revision: str | None = None) -> Path:
    """The folder on this machine that holds a model, complete and with safe weights.

    Raises:
        UsageError: it is not here, torn, or has only pickled weights.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _cached(name, revision)
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            "holds an adapter, not a whole model",
            where=str(folder),
            mend="give its base model as model, and this folder as adapter_path",
        )
    if not (folder / "config.json").is_file():
        raise UsageError(
            "is not a model folder, it has no config.json",
            where=str(folder),
            mend="give a folder in Hugging Face layout",
        )
    _check_weights(folder, name)
    return folder


def tokenizer_folder(name: str, revision: str | None = None) -> Path:
    """The folder on this machine that holds a tokenizer, with or without a model's weights.

    Raises:
        UsageError: it is not here.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _cached(name, revision, "tokenizer")
    if not (folder / "tokenizer_config.json").is_file():
        raise UsageError(
            "holds no tokenizer, it has no tokenizer_config.json",
            where=str(folder),
            mend="give a folder in Hugging Face layout",
        )
    return folder


def tokenizer_identity(name: str, revision: str | None = None) -> dict[str, Any]:
    """What identifies a tokenizer, for fingerprints: the content of its files.

    Raises:
        UsageError: it is not here.
    """
    files = sorted(tokenizer_folder(name, revision).iterdir())
    return {
        path.name: file_sha256(path)
        for path in files
        if path.suffix in _DEFINING and path.name.startswith(_TOKENIZER_FILES)
    }


def visual_tokens(section: ModelSection, width: int, height: int) -> int | None:
    """Tokens of a picture for processors that keep its shape (the Qwen families), else None."""
    assert section.model is not None
    folder = model_folder(section.model, section.revision)
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            options = _read_json(folder / name)
            break
    else:
        return None
    options = options.get("image_processor", options)
    size = options.get("size") or {}
    most = section.max_pixels or options.get("max_pixels") or size.get("longest_edge")
    least = section.min_pixels or options.get("min_pixels") or size.get("shortest_edge")
    if "merge_size" not in options or not (most and least):
        return None
    return resized_tokens(width, height, options["patch_size"] * options["merge_size"], least, most)


def resized_tokens(width: int, height: int, side: int, least: int, most: int) -> int:
    """Tokens of `side` x `side` pixels after a picture was brought to `least` to `most` pixels."""
    columns, rows = max(1, round(width / side)), max(1, round(height / side))
    pixels = columns * rows * side**2
    if pixels > most or pixels < least:
        scale = math.sqrt((most if pixels > most else least) / (width * height))
        rounding = math.floor if pixels > most else math.ceil
        columns = max(1, rounding(width * scale / side))
        rows = max(1, rounding(height * scale / side))
    return columns * rows


def _cached(name: str, revision: str | None, what: str = "model") -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    wanted = f"{name} --revision {revision}" if revision else name
    missing = UsageError(
        f"{what} {name!r} is not on this machine",
        where=f"revision {revision}" if revision else None,
        mend=f"download it first (hf download {wanted}), or give a folder",
    )
    if name.startswith((".", "/", "~")):
        raise UsageError(f"no such {what} folder", where=name)
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise missing from error


def _check_weights(folder: Path, name: str) -> None:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(_read_json(index).get("weight_map", {}).values())
        # transformers would follow an index to pickled files.
        if unsafe := sorted(s for s in shards if Path(str(s)).suffix != ".safetensors"):
            raise _pickled(folder, unsafe[0])
        if absent := sorted(shard for shard in shards if not (folder / shard).is_file()):
            raise UsageError(
                f"{len(absent)} of {len(shards)} weight files are missing, the first {absent[0]}",
                where=str(folder),
                mend=f"download the model again (hf download {name})",
            )
        return
    if any(folder.glob("*.safetensors")):
        return
    files = (path for path in folder.iterdir() if path.name not in _NO_WEIGHTS)
    pickled = sorted(path.name for path in files if path.suffix in _PICKLED)
    if pickled:
        raise _pickled(folder, pickled[0])
    raise UsageError(
        "the model has no weights on this machine",
        where=str(folder),
        mend=f"download it (hf download {name}), or give a folder with model.safetensors",
    )


def _pickled(folder: Path, name: str) -> UsageError:
    return UsageError(
        f"the weights are pickled ({name}) and could run code, so they are not loaded",
        where=str(folder),
        mend="convert them to safetensors, or choose a revision that has them",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(path)) from error
    if not isinstance(found, dict):
        raise UsageError("does not hold a JSON object", where=str(path))
    return found
