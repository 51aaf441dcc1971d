"""RICO-Screen2Words: what 22,417 screens of Android applications are, in five people's words.

Wang et al. 2021, "Screen2Words: Automatic Mobile UI Summarization with Multimodal Learning", on the
RICO screens of Deka et al. 2017. Splits 15,743 / 2,364 / 4,310; 28 application categories.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from limbeck.data.sources.columns import Columns
from limbeck.data.sources.hub import Hub

SCREEN_PROMPT = (
    "Describe this screen in one sentence, then list its key interface elements, separated by "
    "commas."
)


class Screen2Words(Hub):
    """Preset of `hub` for RICO-Screen2Words; `name` may be a folder with a copy of it."""

    source: Literal["screen2words"] = "screen2words"  # type: ignore[assignment]
    name: str = "rootsautomation/RICO-Screen2Words"
    files: tuple[str, ...] | None = ("README.md", "data/*.parquet")
    columns: Columns = Columns(
        id="screenId",
        image="image",
        references="captions",
        category="category",
        metadata=("app_package_name", "play_store_name"),
    )
    prompt: str = Field(SCREEN_PROMPT, min_length=1)
    licence: str | None = "CC-BY-4.0"
