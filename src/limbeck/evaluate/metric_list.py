"""Metrics as a command line names them: words, or a list as in a recipe."""

from __future__ import annotations

from typing import Any, cast

from limbeck.errors import UsageError
from limbeck.recipe.yaml_text import parse_value


def metrics_in(text: str) -> list[str | dict[str, Any]]:
    """The metrics of `rouge_l,bleu`, or of `[rouge_l, {kind: bleu, implementation: sacrebleu}]`.

    Raises:
        UsageError: it is neither.
    """
    if not text.lstrip().startswith("["):
        return [word.strip() for word in text.split(",")]
    found = parse_value(text, "--metrics")
    if not isinstance(found, list) or not all(isinstance(one, str | dict) for one in found):
        raise UsageError(
            "is not a list of metrics", where="--metrics", mend="write it as in a recipe"
        )
    return cast("list[str | dict[str, Any]]", found)
