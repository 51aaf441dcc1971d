"""How long sequences are: tokens of prompt, picture and answer, as far as that is known.

Once the data stage is done they are those of its longest sample; before, what the recipe allows.
Text is not tokenised for it (that would load a tokenizer): a built word tokenizer has a token for
each word and sign, and others are taken to have one for every three bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from limbeck.graph.budget import LARGE_SIDE_PIXELS, picture_tokens
from limbeck.models.source import resized_tokens
from limbeck.planning.models import Unknown
from limbeck.planning.published import PIXELS, PUBLISHED
from limbeck.recipe.sections import ModelSection
from limbeck.records import Sample

BYTES_PER_TOKEN = 3
"""Of text; English takes about four, other languages and numbers less."""
TEMPLATE_TOKENS = 16
"""What a chat template puts around a prompt."""
TEXT_TOKENS = 64
"""Of a prompt, before the data stage knows them."""
SIDE = 28
"""Pixels of a visual token's side in the published models."""
_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Lengths:
    """Of the longest sample.

    Attributes:
        prompt: tokens, visual ones among them; `visual` these alone.
        answer: tokens that are supervised or written.
        samples: how many there are; None before they are counted.
        assumed: what is taken for granted, in words; empty where all is counted.
    """

    prompt: int
    visual: int
    answer: int
    samples: int | None
    assumed: str = ""

    @property
    def whole(self) -> int:
        """Prompt and answer."""
        return self.prompt + self.answer


def lengths_of(
    section: ModelSection,
    samples: Sequence[Sample] | None,
    *,
    new_tokens: int | None,
    references: bool = False,
) -> Lengths:
    """Lengths of a model's sequences on some samples.

    Args:
        section: the model, which decides how many tokens a picture becomes.
        samples: those of the stage; None before the data stage is done.
        new_tokens: limit of an answer that is written; None where it is a reference.
        references: whether the first reference is the answer.

    Raises:
        Unknown: the family's number of visual tokens is known only when it is loaded.
    """
    context = section.context_tokens or (section.build.context_tokens if section.build else None)
    if samples is None:
        visual = _visual(section, LARGE_SIDE_PIXELS, LARGE_SIDE_PIXELS, context)
        prompt, answer = visual + TEXT_TOKENS + TEMPLATE_TOKENS, new_tokens or TEXT_TOKENS
        assumed = f"one picture of the largest size and {TEXT_TOKENS} text tokens a prompt"
    else:
        visuals = [
            sum(_visual(section, f.width, f.height, context) for f in s.images) for s in samples
        ]
        texts = [_text_tokens(section, s) for s in samples]
        visual = max(visuals, default=0)
        prompt = max((v + t for v, t in zip(visuals, texts, strict=True)), default=0)
        answer = new_tokens or 0
        if references:
            own = [_tokens(section, s.references[0]) + 2 for s in samples if s.references]
            answer = min(max(own, default=answer or TEXT_TOKENS), answer or 10**9)
        assumed = ""
    if context is not None:
        prompt = min(prompt, context)
    return Lengths(prompt, visual, answer, None if samples is None else len(samples), assumed)


def _text_tokens(section: ModelSection, sample: Sample) -> int:
    parts = [p["text"] for m in sample.messages for p in m["content"] if "text" in p]
    return sum(_tokens(section, text) for text in parts) + TEMPLATE_TOKENS


def _tokens(section: ModelSection, text: str) -> int:
    if section.build is not None and section.build.tokenizer == "word":
        return len(_WORDS.findall(text))
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def _visual(section: ModelSection, width: int, height: int, context: int | None) -> int:
    found = _picture(section.model_dump_json(), section, width, height)
    if found is not None:
        return found
    if context is None:
        raise Unknown("its number of visual tokens is known when it is loaded")
    return context


class _Keyed:
    """A section that can be a key: equal where its JSON is."""

    def __init__(self, text: str, section: ModelSection) -> None:
        self.text, self.section = text, section

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self.text == other.text


def _picture(text: str, section: ModelSection, width: int, height: int) -> int | None:
    return _picture_once(_Keyed(text, section), width, height)


@lru_cache(maxsize=4096)
def _picture_once(keyed: _Keyed, width: int, height: int) -> int | None:
    section = keyed.section
    found = picture_tokens(section, width, height)
    if found is None and section.model in PUBLISHED:
        most = section.max_pixels or PIXELS["max_pixels"]
        least = section.min_pixels or min(PIXELS["min_pixels"], most)
        return resized_tokens(width, height, SIDE, least, most)
    return found
