"""How the synthetic screens look: dark on light, every element on the 32-pixel grid of tokens.

A vision model with 16-pixel patches merged two by two sees each cell as one token, so a tiny model
can learn to read within minutes: the label fills two cells, the control the last cell of the row.
"""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

from limbeck.errors import DataError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

CELL = 32
"""Pixels of a side of a cell."""

INK = (24, 24, 28)


def draw_screen(
    width: int,
    height: int,
    *,
    app: str,
    title: str,
    elements: list[tuple[str, str, str]],
    ground: int,
) -> bytes:
    """A screen as PNG.

    Args:
        width: pixels, a multiple of the cell, at least three cells.
        height: pixels; the title takes the first row of cells, each element one more.
        app: a short word for the first cell.
        title: a word for the two cells after it.
        elements: (state, kind, label) from top to bottom.
        ground: grey level of the ground.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), (ground, ground, ground))
    draw = ImageDraw.Draw(image)
    draw.text((2, 16), app, fill=INK, font=_font(12), anchor="lm")
    draw.text((CELL + 3, 16), title, fill=INK, font=_font(14), anchor="lm")
    draw.line((0, CELL - 2, width, CELL - 2), fill=(150, 150, 155))
    for row, (state, kind, label) in enumerate(elements, start=1):
        top = row * CELL
        draw.text((3, top + 16), label, fill=INK, font=_font(15), anchor="lm")
        _CONTROLS[kind](draw, width - CELL, top, state)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@functools.cache
def _font(size: int) -> FreeTypeFont:
    from PIL import ImageFont, features

    if not features.check("freetype2"):
        raise DataError("Pillow was built without FreeType", mend="install the Pillow wheel")
    return ImageFont.load_default(size)  # type: ignore[return-value]


def _toggle(draw: ImageDraw, x: int, y: int, state: str) -> None:
    on = state == "on"
    draw.rounded_rectangle((x + 3, y + 9, x + 28, y + 22), 7, INK if on else "white", INK, 2)
    left = x + 17 if on else x + 6
    draw.ellipse((left, y + 12, left + 8, y + 19), "white" if on else INK)


def _checkbox(draw: ImageDraw, x: int, y: int, state: str) -> None:
    draw.rectangle((x + 8, y + 8, x + 23, y + 23), "white", INK, 2)
    if state == "checked":
        draw.line((x + 11, y + 15, x + 15, y + 20, x + 21, y + 10), INK, 3)


def _slider(draw: ImageDraw, x: int, y: int, state: str) -> None:
    draw.line((x + 3, y + 16, x + 28, y + 16), INK, 2)
    middle = x + (23 if state == "high" else 8)
    draw.ellipse((middle - 5, y + 11, middle + 5, y + 21), INK)


def _field(draw: ImageDraw, x: int, y: int, state: str) -> None:
    draw.rectangle((x + 2, y + 7, x + 29, y + 24), "white", INK, 1)
    if state == "filled":
        for left in (6, 13, 20):
            draw.rectangle((x + left, y + 13, x + left + 4, y + 18), INK)


def _button(draw: ImageDraw, x: int, y: int, state: str) -> None:
    enabled = state == "enabled"
    draw.rounded_rectangle((x + 3, y + 7, x + 28, y + 24), 5, INK if enabled else None, INK, 1)
    if enabled:
        draw.polygon(((x + 12, y + 11), (x + 21, y + 16), (x + 12, y + 20)), "white")
    else:
        draw.line((x + 6, y + 22, x + 25, y + 9), INK, 2)


def _tab(draw: ImageDraw, x: int, y: int, state: str) -> None:
    draw.line((x + 4, y + 26, x + 8, y + 10, x + 23, y + 10, x + 27, y + 26), INK, 1)
    if state == "active":
        draw.rectangle((x + 3, y + 21, x + 28, y + 27), INK)


def _icon(draw: ImageDraw, x: int, y: int, state: str) -> None:
    draw.ellipse((x + 5, y + 9, x + 22, y + 26), "white", INK, 2)
    draw.line((x + 13, y + 13, x + 13, y + 22), INK, 2)
    if state == "new":
        draw.ellipse((x + 19, y + 3, x + 29, y + 13), INK)


_CONTROLS = {
    "toggle": _toggle,
    "checkbox": _checkbox,
    "slider": _slider,
    "field": _field,
    "button": _button,
    "tab": _tab,
    "icon": _icon,
}
