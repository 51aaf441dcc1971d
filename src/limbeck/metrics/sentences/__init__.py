"""Sentence encoders for metrics: where one is on this machine, what identifies it, its vectors.

Nothing is ever downloaded. Torch is imported when a text is first encoded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import UsageError
from limbeck.store import file_sha256

BATCH = 64
LONGEST_CHARACTERS = 32_768
"""Of a text more is not even cut into tokens; encoders read a few hundred tokens."""

POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
"""How a folder of sentence-transformers says which pooling its model was trained with."""


def encoder_folder(model: str, revision: str | None) -> Path:
    """The folder of a sentence encoder with safe weights.

    Raises:
        UsageError: it is not on this machine, is no model, or has only pickled weights.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _cached(model, revision)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise UsageError(
            "is not the folder of a sentence encoder: it needs config.json and safetensors",
            where=str(folder),
            mend="give a folder in Hugging Face layout, such as all-MiniLM-L6-v2's",
        )
    return folder


@cache
def encoder_revision(model: str, revision: str | None) -> str:
    """What identifies an encoder: the hub's commit, or the content of a folder's weights.

    Raises:
        UsageError: as `encoder_folder`.
    """
    folder = encoder_folder(model, revision)
    if not Path(model).expanduser().is_dir():
        return folder.name
    names = [*sorted(folder.glob("*.safetensors")), folder / "config.json"]
    names += [path for path in (folder / "tokenizer.json", _pooling_file(folder)) if path.is_file()]
    return "sha256 " + "+".join(file_sha256(path)[:12] for path in names)


class SentenceEncoder:
    """A BERT-like model of transformers whose token states are pooled to one unit vector a text.

    Args:
        folder: of the model.
        pooling: "mean" over all real tokens, "cls" (the first), or "auto": as the folder says, mean
            where it says nothing.

    Raises:
        UsageError: the folder asks for a pooling that is neither.
    """

    def __init__(self, folder: Path, pooling: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._pooling = _pooling_of(folder) if pooling == "auto" else pooling
        options: Any = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = cast(Any, AutoTokenizer).from_pretrained(folder, **options)
        options |= {"dtype": torch.float32, "use_safetensors": True}
        self._model = cast(Any, AutoModel).from_pretrained(folder, **options).eval()
        positions = getattr(self._model.config, "max_position_embeddings", None)
        self._tokens = min(self._tokenizer.model_max_length, _own_limit(folder), positions or 512)
        self._known: dict[str, NDArray[np.float32]] = {}

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors [n, H]; a text without a word has none, and gives zeros.

        A text is encoded once in a process, so that equal texts have equal vectors to the last bit.
        """
        waiting = sorted({t for t in texts if t.strip()} - self._known.keys(), key=lambda t: len(t))
        for start in range(0, len(waiting), BATCH):
            batch = waiting[start : start + BATCH]
            self._known |= zip(batch, self._encoded(batch), strict=True)
        nothing = np.zeros(self._model.config.hidden_size, dtype=np.float32)
        return np.stack([self._known.get(text, nothing) for text in texts])

    def _encoded(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        cut = [_writable(text[:LONGEST_CHARACTERS]) for text in texts]
        inputs = self._tokenizer(
            cut, padding=True, truncation=True, max_length=self._tokens, return_tensors="pt"
        )
        with torch.inference_mode():
            states_BLH = self._model(**inputs).last_hidden_state.float()
        if self._pooling == "cls":
            pooled_BH = states_BLH[:, 0]
        else:
            mask_BL1 = inputs["attention_mask"][..., None].float()
            pooled_BH = (states_BLH * mask_BL1).sum(1) / mask_BL1.sum(1)
        return torch.nn.functional.normalize(pooled_BH, dim=-1).numpy()


@cache
def sentence_encoder(folder: Path, pooling: str) -> SentenceEncoder:
    """The encoder of a folder, loaded once in a process."""
    return SentenceEncoder(folder, pooling)


def _cached(model: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = cast(Any, huggingface_hub).snapshot_download(
            model, revision=revision, local_files_only=True
        )
        return Path(found)
    except (LocalEntryNotFoundError, HFValidationError) as error:
        wanted = f"{model} --revision {revision}" if revision else model
        raise UsageError(
            f"sentence encoder {model!r} is not on this machine",
            where="evaluate.metrics",
            mend=f"download it first (hf download {wanted}), or give a folder",
        ) from error


def _pooling_file(folder: Path) -> Path:
    return folder / "1_Pooling" / "config.json"


def _pooling_of(folder: Path) -> str:
    path = _pooling_file(folder)
    if not path.is_file():
        return "mean"
    wanted = [name for name, value in _read(path).items() if value is True]
    modes = [name for name in wanted if name.startswith("pooling_mode")]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UsageError(
            f"pools by {' and '.join(modes) or 'nothing'}, and mean and cls are known here",
            where=str(path),
            mend="set pooling: mean or cls, or give another encoder",
        )
    return POOLINGS[modes[0]]


def _own_limit(folder: Path) -> int:
    path = folder / "sentence_bert_config.json"
    return int(_read(path).get("max_seq_length") or 512) if path.is_file() else 512


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(path)) from error
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _writable(text: str) -> str:
    """The text without half surrogate pairs, which tokenizers do not take."""
    return text.encode("utf-8", "replace").decode("utf-8")
