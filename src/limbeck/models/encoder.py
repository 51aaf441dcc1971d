"""The processor of a model whose weights another runtime has: its prompts are made here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.data.tokens import Encoder
from limbeck.errors import LimbeckError, UsageError
from limbeck.models.source import model_folder
from limbeck.models.vocabulary import Vocabulary, shared_vocabulary


@dataclass(frozen=True)
class ModelPrompts:
    """A model without its weights.

    Attributes:
        folder: where its files are.
        encoder: makes its prompts and pixel tensors.
        vocabulary: its tokenizer's tokens among the rows of its head.
        end_ids: tokens that end an answer: the template's, and those of generation_config.json.
        dtype: of the weights as they are stored; None where config.json does not say.
    """

    folder: Path
    encoder: Encoder
    vocabulary: Vocabulary
    end_ids: tuple[int, ...]
    dtype: str | None = None

    @property
    def head_rows(self) -> int:
        """Rows of its head, padding included."""
        return self.vocabulary.teacher_rows

    def split_at_end(self, token_ids: Sequence[int]) -> tuple[list[int], list[int], bool]:
        """What a model wrote: the answer's tokens, the same with the end token, and if it ended.

        What follows the first end token is dropped.
        """
        ids = list(token_ids)
        stop = next((n for n, token in enumerate(ids) if token in self.end_ids), None)
        return (ids, ids, False) if stop is None else (ids[:stop], ids[: stop + 1], True)


def load_prompts(
    model: str,
    revision: str | None,
    *,
    min_pixels: int | None,
    max_pixels: int | None,
    context_tokens: int | None,
) -> ModelPrompts:
    """The processor of a hub id in the local cache, or of a folder.

    Raises:
        UsageError: not on this machine, or no model for pictures and text.
    """
    from transformers import AutoConfig, AutoProcessor

    folder = model_folder(model, revision)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except LimbeckError:
        raise
    except (ImportError, OSError, ValueError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"cannot be loaded ({first})", where=model) from error
    if getattr(processor, "image_processor", None) is None or not hasattr(processor, "tokenizer"):
        raise UsageError("has no processor for pictures and text", where=model)
    encoder = Encoder(
        processor,
        config=config,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        context_tokens=context_tokens,
    )
    rows = config.get_text_config().vocab_size
    tokenizer = processor.tokenizer
    vocabulary = shared_vocabulary(tokenizer, tokenizer, rows, rows)
    ends = dict.fromkeys([*encoder.end_ids, *_generation_ends(folder, config)])
    stored = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    dtype = None if stored is None else str(stored).removeprefix("torch.")
    return ModelPrompts(folder, encoder, vocabulary, tuple(ends), dtype)


def _generation_ends(folder: Path, config: Any) -> list[int]:
    """End tokens as transformers takes them: of generation_config.json, else of config.json."""
    path = folder / "generation_config.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    else:
        found = getattr(config.get_text_config(), "eos_token_id", None)
    return found if isinstance(found, list) else [] if found is None else [found]
