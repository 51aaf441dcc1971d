"""`limbeck cache inspect`: what a cache of teacher signals is like, and holds of one sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.data.labels import TOKENIZER
from limbeck.errors import DataError
from limbeck.signals import hidden_coding, top_k_coding
from limbeck.signals.cache import INDEX, read_index
from limbeck.signals.hidden import HiddenReader
from limbeck.signals.reader import SignalReader
from limbeck.store import MANIFEST

ALTERNATIVES = 5
"""Tokens shown for every position of a sample."""


def inspect_cache(folder: Path, sample_id: str | None = None) -> dict[str, Any]:
    """Size, tail mass, entropy, agreement, key and shards of a label stage's cache, and a sample.

    Args:
        folder: a label stage's folder, `labels/<fingerprint>`.
        sample_id: whose tokens are decoded; None takes the first.

    Returns:
        format, key, statistics, shards, and sample: its id and, for every answer token, its text,
        its probability in percent at T = 1 where it was kept, and the likeliest tokens.

    Raises:
        DataError: the folder holds no finished cache, the cache is damaged, or lacks the sample.
    """
    if not folder.is_dir() or ((folder / MANIFEST).exists() and not (folder / INDEX).exists()):
        raise DataError(
            "holds no cached distributions",
            where=str(folder),
            mend="give work/labels/FINGERPRINT of a recipe with label.signal: top_k or hidden",
        )
    index = read_index(folder)
    reader = _open(folder, index["format"])
    shards = [
        {
            "file": shard.path.name,
            "samples": len(shard.sample_ids),
            "tokens": shard.tokens,
            "bytes": shard.path.stat().st_size,
        }
        for shard in reader.shards
    ]
    if sample_id is None:
        sample_id = next(iter(reader.sample_ids), None)
    found: dict[str, Any] = {
        "folder": str(folder),
        "format": index["format"],
        "key": index["key"],
        "statistics": reader.statistics,
        "shards": shards,
        "sample": None,
    }
    if sample_id is not None:
        found["sample"] = _sample(reader, sample_id, folder / TOKENIZER)
    return found


def describe(found: dict[str, Any]) -> str:
    """The same as lines of text."""
    statistics, key = dict(found["statistics"]), found["key"]
    lines = [f"{found['format']} in {found['folder']}"]
    for name, value in statistics.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        lines += [f"  {_named(name, part):<24}{_number(number)}" for part, number in parts]
    lines += [f"  {'key: ' + name:<24}{value}" for name, value in sorted(key.items())]
    lines += [
        f"  {shard['file']}  {shard['samples']} samples, {shard['tokens']} tokens, "
        f"{shard['bytes']} bytes"
        for shard in found["shards"]
    ]
    if found["sample"] is not None:
        lines.append(f"sample {found['sample']['id']}")
        for token in found["sample"]["tokens"]:
            own = "not kept" if token["percent"] is None else f"{token['percent']:.2f} %"
            others = "  ".join(
                f"{other['token']!r} {other['percent']:.2f}" for other in token["likeliest"]
            )
            lines.append(f"  {token['token']!r:<16}{own:>9}   {others}")
    return "\n".join(lines)


def _open(folder: Path, format_name: str) -> SignalReader | HiddenReader:
    if format_name == top_k_coding.FORMAT:
        return SignalReader(folder, None)
    if format_name == hidden_coding.FORMAT:
        return HiddenReader(folder, None)
    raise DataError(
        f"format {format_name!r} is not known", where=str(folder), mend="use a newer version"
    )


def _sample(
    reader: SignalReader | HiddenReader, sample_id: str, tokenizer_folder: Path
) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    # A column is a token's place among the real ids (models/vocabulary.py).
    token_ids = sorted(set(tokenizer.get_vocab().values()))

    def text(column: Any) -> str:
        return tokenizer.decode([token_ids[int(column)]])

    answer = reader.answer_ids(sample_id)
    tokens: list[dict[str, Any]] = []
    for column, (columns, percents) in zip(answer, _rows(reader, sample_id, answer), strict=True):
        order = np.argsort(-percents, kind="stable")[:ALTERNATIVES]
        own = percents[columns == column]
        tokens.append(
            {
                "token": text(column),
                "percent": float(own[0]) if own.size else None,
                "likeliest": [
                    {"token": text(columns[at]), "percent": float(percents[at])} for at in order
                ],
            }
        )
    return {"id": sample_id, "tokens": tokens}


def _rows(
    reader: SignalReader | HiddenReader, sample_id: str, answer: list[int]
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Columns and their probabilities in percent, a pair for every answer token."""
    if isinstance(reader, SignalReader):
        ids, logp, _, _ = reader.rows(sample_id, answer)
        return [(i, 100 * np.exp(p)) for i, p in zip(ids, logp, strict=True)]
    p_NV = reader.signal([sample_id], [answer]).logits_NV.softmax(-1).numpy()
    return [(np.arange(p_NV.shape[1]), 100 * p_V) for p_V in p_NV]


def _named(name: str, part: str) -> str:
    words = name.replace("_", " ")
    return f"{words} at T = {part}" if part else words


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
