"""Why an answer must not be trained on: length, form, language, repetition, refusal, confidence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import regex

from limbeck.labelling.language import is_in_language
from limbeck.labelling.repetition import repetition
from limbeck.labelling.words import words_of
from limbeck.recipe.labelling import Checks

PATTERN_SECONDS = 1.0
"""A pattern of the user's that takes longer on one answer is given up, and the answer unfit."""

BEGINNING_CHARACTERS = 200
"""Where refusals stand; a text that is read from a picture may hold one anywhere."""

_SORRY = (
    r"(?:i(?:['’]m| am) (?:really |very |so )?(?:sorry|afraid)|sorry|unfortunately|my apologies"
    r"|i apologi[sz]e)[,.:;!]? *(?:but )?"
)
_CANNOT = (
    r"(?:i can(?:not|['’]t| not)|i could ?n['’]t|i won['’]t|i(?: am|['’]m) (?:not able|unable) to"
    r"|i do(?: not|n['’]t) have the (?:ability|capability) to)(?: directly| currently)?"
)
_REFUSED = (
    r"(?:help|assist|comply|provide|answer|describe|discuss|view|see|access|open|process"
    r"|analy[sz]e|identify|interpret|look at|create|generate)"
)
_OBJECT = (
    r"(?:with (?:that|this|your)|(?:the |this |that |these |any |your |an? |real )*"
    r"(?:image|picture|photo|photograph|screenshot|request|question|attachment|people|person"
    r"|individual|content|information|description)s?)"
)
_MODEL = r"(?:ai|artificial intelligence|(?:large )?language model)"

REFUSALS = tuple(
    regex.compile(rf"^\W*{pattern}\b", regex.IGNORECASE)
    for pattern in (
        rf"(?:{_SORRY})?{_CANNOT} {_REFUSED} {_OBJECT}",
        rf"{_SORRY}{_CANNOT} {_REFUSED}",
        rf"as an? {_MODEL}",
        rf"i(?:['’]m| am) (?:just |only )?an? {_MODEL}",
        r"i (?:do not|don['’]t) see (?:an?|any) (?:image|picture|photo)s?",
    )
)
"""How refusals begin in English; those of other languages are for `forbidden`."""


def unfit_reasons(
    text: str,
    finished: bool,
    checks: Checks,
    *,
    mean_log_probability: float | None = None,
    agreement: float | None = None,
) -> Iterator[str]:
    """Why an answer must not be trained on; nothing when it may.

    Args:
        text: the answer.
        finished: False when the limit on new tokens cut it.
        checks: what is asked of it.
        mean_log_probability: per token under the teacher; None where it is not known yet, and
            then it is not judged: who asks for `min_mean_log_probability` has to ask again.
        agreement: with the other answers to the sample; None as above.
    """
    text = text.strip()
    if not text:
        yield "empty"
        return
    yield from _of_length(text, checks)
    if checks.must_finish and not finished:
        yield "cut by max_new_tokens"
    if checks.max_repetition < 1 and repetition(text) > checks.max_repetition:
        yield "repeats itself"
    if "\N{REPLACEMENT CHARACTER}" in text:
        yield "broken characters"
    if checks.refusals and is_refusal(text):
        yield "refuses"
    yield from _of_patterns(text, checks)
    yield from _of_form(text, checks)
    if checks.language is not None and not is_in_language(text, checks.language):
        yield f"not in language {checks.language}"
    least = checks.min_mean_log_probability
    if least is not None and mean_log_probability is not None and mean_log_probability < least:
        yield f"mean log-probability below {least:g}"
    least = checks.min_agreement
    if least is not None and agreement is not None and agreement < least:
        yield f"agreement below {least:g}"


def is_refusal(text: str) -> bool:
    """Whether an answer begins as refusals do; one that quotes a refusal does not."""
    beginning = text.lstrip()[:BEGINNING_CHARACTERS]
    return any(pattern.search(beginning) for pattern in REFUSALS)


def _of_length(text: str, checks: Checks) -> Iterator[str]:
    words = len(words_of(text))
    for count, unit in ((len(text), "characters"), (words, "words")):
        least: int = getattr(checks, f"min_{unit}")
        most: int | None = getattr(checks, f"max_{unit}")
        if count < least:
            yield f"shorter than {least} {unit}"
        if most is not None and count > most:
            yield f"longer than {most} {unit}"


def _of_patterns(text: str, checks: Checks) -> Iterator[str]:
    try:
        if checks.pattern is not None and not regex.fullmatch(
            checks.pattern, text, regex.DOTALL, timeout=PATTERN_SECONDS
        ):
            yield "does not match the pattern"
        for pattern in checks.forbidden:
            if regex.search(pattern, text, timeout=PATTERN_SECONDS):
                yield f"holds what is forbidden ({pattern[:60]})"
    except TimeoutError:
        yield f"a pattern took longer than {PATTERN_SECONDS:g} s"


def _of_form(text: str, checks: Checks) -> Iterator[str]:
    if checks.format == "json" and not _is_json(text):
        yield "is not JSON"
    if checks.format == "list":
        items = [item for item in text.split(",") if item.strip()]
        if len(items) < checks.min_items:
            yield f"lists fewer than {checks.min_items} items"
    if checks.format == "one_of" and text not in checks.choices:
        yield "is none of the choices"


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")
