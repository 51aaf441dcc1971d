"""What a cache of teacher signals is made of; whatever would change a number is part of the key.

The global key belongs to the whole cache: teacher id and revision, quantization, dtype, tokenizer,
chat template, pixel budget, shared vocabulary. The sample key belongs to one sample: its prompt,
its images by content, the text that was scored. Both are compared part by part, so that a mismatch
is refused by name.
"""

from __future__ import annotations

import json
from typing import Any

from limbeck.errors import DataError
from limbeck.records import Sample
from limbeck.store import canonical_json, fingerprint

MEND = "label again with this recipe, or go back to the one that made the cache"


def sample_key(sample: Sample, text: str) -> dict[str, str]:
    """The key of one sample: fingerprints of its prompt, its images' content, and the answer."""
    return {
        "prompt": fingerprint(sample.messages),
        "images": fingerprint([image.sha256 for image in sample.images]),
        "target_text": fingerprint(text),
    }


def plain(key: dict[str, Any]) -> dict[str, Any]:
    """The key as JSON gives it back (tuples are lists), so that both sides compare equal."""
    return json.loads(canonical_json(key))


def require_same(stored: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Refuse a key that is not the expected one.

    Raises:
        DataError: names the parts that differ, each with the value stored and the one expected.
    """
    stored, expected = plain(stored), plain(expected)
    if stored == expected:
        return
    parts = _differences(stored, expected, "")
    more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
    raise DataError(
        f"the teacher's signals were made for another {', '.join(parts[:3])}{more}",
        where=where,
        mend=MEND,
    )


_ABSENT = object()


def _differences(stored: Any, expected: Any, path: str) -> list[str]:
    if isinstance(stored, dict) and isinstance(expected, dict):
        return [
            part
            for name in sorted({*stored, *expected})
            for part in _differences(
                stored.get(name, _ABSENT),
                expected.get(name, _ABSENT),
                f"{path}.{name}" if path else name,
            )
        ]
    if stored == expected:
        return []
    return [f"{path} (stored {_short(stored)}, expected {_short(expected)})"]


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = canonical_json(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
