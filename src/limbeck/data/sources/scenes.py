"""How the synthetic first-person scenes look: a place, things on a table, one's own hands.

A picture is four cells wide and three high. The place fills the upper row, things stand in the
cells of the middle row, and the lower row shows the hands and what they are doing. A vision model
with 16-pixel patches merged two by two sees each cell of 32 pixels as one token, so a tiny model
can learn to look within minutes. All shapes are given in units of a 32nd of a cell.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

COLUMNS, ROWS = 4, 3
UNITS = 32
"""Units of a side of a cell."""

INK = (30, 28, 34)
PAPER = (255, 255, 255)
STEEL = (150, 160, 172)
WOOD = (150, 100, 55)

COLOURS = {
    "red": (208, 36, 40),
    "blue": (36, 84, 200),
    "green": (28, 140, 60),
    "yellow": (240, 190, 20),
    "purple": (138, 50, 160),
    "black": (44, 42, 48),
}
SKINS = ((244, 208, 180), (222, 170, 130), (176, 120, 84), (120, 78, 54))

Colour = tuple[int, int, int]


class Thing(NamedTuple):
    """What stands on the table: its kind, its colour and its column from the left."""

    kind: str
    colour: str
    column: int


class Pen:
    """Draws in the units of a cell, from its upper left corner."""

    def __init__(self, draw: ImageDraw, left: float, top: float, scale: float) -> None:
        self._draw, self._left, self._top, self._scale = draw, left, top, scale

    def _xy(self, points: tuple[float, ...]) -> list[tuple[float, float]]:
        pairs = zip(points[::2], points[1::2], strict=True)
        return [(self._left + x * self._scale, self._top + y * self._scale) for x, y in pairs]

    def _wide(self, width: float) -> int:
        return max(1, round(width * self._scale))

    def box(self, *at: float, fill: Colour | None = None, edge: Colour | None = INK) -> None:
        """A rectangle from (x, y) to (x, y)."""
        self._draw.rectangle(self._xy(at), fill, edge, self._wide(1))

    def oval(self, *at: float, fill: Colour | None = None, edge: Colour | None = INK) -> None:
        """An ellipse in a rectangle."""
        self._draw.ellipse(self._xy(at), fill, edge, self._wide(1))

    def shape(self, *at: float, fill: Colour, edge: Colour | None = INK) -> None:
        """A polygon."""
        self._draw.polygon(self._xy(at), fill, edge, self._wide(1))

    def line(self, *at: float, fill: Colour = INK, width: float = 1) -> None:
        """A line through points."""
        self._draw.line(self._xy(at), fill, self._wide(width))

    def half(self, *at: float, fill: Colour) -> None:
        """The lower half of an ellipse in a rectangle."""
        self._draw.chord(self._xy(at), 0, 180, fill, INK, self._wide(1))

    def ring(self, *at: float, fill: Colour, width: float) -> None:
        """The right half of a ring."""
        self._draw.arc(self._xy(at), 270, 90, fill, self._wide(width))


def draw_scene(
    *,
    environment: str,
    things: tuple[Thing, ...],
    action: str,
    skin: Colour,
    shift: tuple[int, int],
    cell_pixels: int,
) -> bytes:
    """One frame as PNG.

    Args:
        environment: one of `ENVIRONMENTS`.
        things: at most one a column.
        action: one of `ACTIONS`.
        skin: of the hands.
        shift: units by which the things stand off the middle of their cells.
        cell_pixels: side of a cell.
    """
    from PIL import Image, ImageDraw

    scale = cell_pixels / UNITS
    image = Image.new("RGB", (COLUMNS * cell_pixels, ROWS * cell_pixels), PAPER)
    draw = ImageDraw.Draw(image)
    wall, ground, paint = ENVIRONMENTS[environment]
    upper = Pen(draw, 0, 0, scale)
    upper.box(0, 0, COLUMNS * UNITS, UNITS, fill=wall, edge=None)
    upper.box(0, UNITS, COLUMNS * UNITS, ROWS * UNITS, fill=ground, edge=None)
    paint(upper)
    _table(Pen(draw, 0, cell_pixels, scale), _darker(ground), ground)
    for thing in things:
        left = (thing.column * UNITS + shift[0]) * scale
        pen = Pen(draw, left, (UNITS + shift[1]) * scale, scale)
        pen.oval(5, 25, 27, 29, fill=_darker(ground), edge=None)
        THINGS[thing.kind](pen, COLOURS[thing.colour])
    lower = Pen(draw, 0, 2 * cell_pixels, scale)
    ACTIONS[action](lower)
    _hands(lower, skin)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def any_skin(stream: random.Random) -> Colour:
    """A colour of hands; it says nothing about the answers."""
    return stream.choice(SKINS)


def _darker(colour: Colour) -> Colour:
    red, green, blue = colour
    return (red * 7 // 8, green * 7 // 8, blue * 7 // 8)


def _table(pen: Pen, floor: Colour, top: Colour) -> None:
    """Its slanting sides and the runner in its middle tell the four places apart."""
    pen.box(0, 0, COLUMNS * UNITS, UNITS - 1, fill=floor, edge=None)
    pen.shape(8, 1, 120, 1, 127, 31, 0, 31, fill=top, edge=WOOD)
    pen.shape(59, 2, 69, 2, 70, 31, 58, 31, fill=floor, edge=WOOD)


def _hands(pen: Pen, skin: Colour) -> None:
    """Two forearms from the lower corners, thumbs towards each other."""
    pen.shape(2, 32, 14, 32, 36, 18, 30, 9, 22, 12, fill=skin)
    pen.shape(126, 32, 114, 32, 92, 18, 98, 9, 106, 12, fill=skin)
    pen.oval(28, 8, 40, 20, fill=skin)
    pen.oval(88, 8, 100, 20, fill=skin)
    pen.line(34, 10, 43, 13, fill=skin, width=4)
    pen.line(94, 10, 85, 13, fill=skin, width=4)


def _cup(pen: Pen, colour: Colour) -> None:
    pen.ring(17, 12, 28, 22, fill=colour, width=3)
    pen.box(7, 9, 22, 26, fill=colour)


def _bowl(pen: Pen, colour: Colour) -> None:
    pen.half(3, 2, 29, 27, fill=colour)
    pen.box(11, 25, 21, 28, fill=colour)


def _bottle(pen: Pen, colour: Colour) -> None:
    pen.box(13, 2, 19, 10, fill=colour)
    pen.shape(13, 9, 19, 9, 23, 14, 23, 28, 9, 28, 9, 14, fill=colour)
    pen.box(11, 17, 21, 23, fill=PAPER)


def _book(pen: Pen, colour: Colour) -> None:
    pen.box(5, 4, 27, 28, fill=colour)
    pen.box(23, 6, 26, 26, fill=PAPER)
    pen.line(9, 9, 19, 9, fill=PAPER, width=2)
    pen.line(9, 13, 19, 13, fill=PAPER, width=2)


def _ball(pen: Pen, colour: Colour) -> None:
    pen.oval(5, 6, 27, 28, fill=colour)
    pen.oval(9, 9, 15, 15, fill=PAPER, edge=None)


def _lamp(pen: Pen, colour: Colour) -> None:
    pen.line(16, 14, 16, 27, width=2)
    pen.box(9, 26, 23, 28, fill=INK)
    pen.shape(11, 3, 21, 3, 28, 17, 4, 17, fill=colour)


def _box(pen: Pen, colour: Colour) -> None:
    pen.shape(3, 12, 10, 5, 30, 5, 24, 12, fill=PAPER)
    pen.shape(24, 12, 30, 5, 30, 22, 24, 29, fill=colour)
    pen.box(3, 12, 24, 29, fill=colour)
    pen.line(13, 13, 13, 28, fill=PAPER, width=2)


def _hat(pen: Pen, colour: Colour) -> None:
    pen.box(9, 8, 23, 23, fill=colour)
    pen.oval(1, 20, 31, 28, fill=colour)
    pen.line(9, 18, 23, 18, fill=PAPER, width=2)


def _cut(pen: Pen) -> None:
    pen.shape(42, 6, 74, 6, 78, 11, 74, 15, 42, 15, fill=STEEL)
    pen.box(76, 8, 92, 13, fill=INK)
    pen.box(40, 19, 88, 26, fill=(222, 184, 120))


def _pour(pen: Pen) -> None:
    pen.shape(62, 2, 84, 8, 78, 24, 58, 16, fill=(206, 232, 246))
    for left, top in ((56, 16), (52, 20), (55, 25), (50, 27)):
        pen.oval(left, top, left + 4, top + 5, fill=(60, 140, 220), edge=None)


def _write(pen: Pen) -> None:
    pen.box(46, 7, 80, 30, fill=PAPER)
    for top in (13, 18, 23):
        pen.line(50, top, 68, top, width=1)
    pen.line(68, 24, 88, 6, fill=(24, 60, 190), width=3)


def _hammer(pen: Pen) -> None:
    pen.line(58, 8, 92, 16, fill=WOOD, width=4)
    pen.box(50, 1, 60, 16, fill=(84, 86, 92))
    pen.line(55, 20, 55, 29, fill=STEEL, width=2)
    pen.line(50, 20, 60, 20, fill=STEEL, width=2)


def _type(pen: Pen) -> None:
    pen.box(42, 8, 86, 28, fill=(206, 208, 214))
    for row in range(3):
        for key in range(7):
            left, top = 45 + key * 6, 11 + row * 6
            pen.box(left, top, left + 3, top + 3, fill=INK, edge=None)


def _read(pen: Pen) -> None:
    pen.shape(64, 9, 42, 5, 42, 26, 64, 30, fill=PAPER)
    pen.shape(64, 9, 86, 5, 86, 26, 64, 30, fill=PAPER)
    for top in (12, 16, 20):
        pen.line(46, top - 1, 60, top + 2)
        pen.line(68, top + 2, 82, top - 1)


def _kitchen(pen: Pen) -> None:
    for left in (2, 34, 98):
        pen.box(left, 2, left + 27, 20, fill=(236, 200, 150))
        pen.oval(left + 21, 9, left + 25, 13, fill=INK)
    pen.box(66, 2, 93, 24, fill=(224, 226, 232))
    pen.box(69, 10, 90, 22, fill=(90, 92, 98))
    pen.line(0, 29, 128, 29, fill=(196, 150, 100), width=4)


def _office(pen: Pen) -> None:
    for left in (2, 98):
        pen.box(left, 2, left + 28, 26, fill=(200, 224, 248))
        for top in range(6, 26, 4):
            pen.line(left, top, left + 28, top, fill=(120, 150, 190))
    pen.box(44, 3, 84, 24, fill=(58, 62, 72))
    pen.box(47, 6, 81, 21, fill=(130, 190, 235))
    pen.box(61, 24, 67, 30, fill=(58, 62, 72))


def _workshop(pen: Pen) -> None:
    for left in range(3, 128, 8):
        for top in (4, 12, 20, 28):
            pen.box(left, top, left + 1, top + 1, fill=(150, 120, 84), edge=None)
    pen.shape(6, 8, 26, 4, 28, 18, 8, 14, fill=STEEL)
    pen.line(46, 4, 46, 27, fill=WOOD, width=4)
    pen.box(38, 3, 54, 9, fill=(84, 86, 92))
    pen.line(78, 4, 78, 28, fill=STEEL, width=4)
    pen.oval(72, 2, 84, 12, fill=STEEL)
    pen.line(104, 5, 120, 26, fill=(208, 90, 30), width=5)


def _street(pen: Pen) -> None:
    for left, top, right, shade in ((0, 4, 30, 168), (34, 10, 60, 190), (66, 2, 96, 150)):
        pen.box(left, top, right, 31, fill=(shade, shade, shade + 6))
        for x in range(left + 5, right - 4, 9):
            for y in range(top + 4, 28, 8):
                pen.box(x, y, x + 3, y + 3, fill=(250, 240, 170), edge=None)
    pen.line(112, 6, 112, 31, width=3)
    pen.oval(106, 2, 118, 10, fill=(250, 220, 60))


def _garden(pen: Pen) -> None:
    for left in (4, 40, 100):
        pen.box(left + 10, 18, left + 14, 31, fill=WOOD)
        pen.oval(left, 2, left + 24, 22, fill=(60, 150, 70))
    pen.oval(74, 3, 88, 17, fill=(250, 200, 40))
    for left in range(0, 128, 6):
        pen.line(left, 32, left + 3, 26, fill=(40, 120, 50), width=2)


THINGS: dict[str, Callable[[Pen, Colour], None]] = {
    "cup": _cup,
    "bowl": _bowl,
    "bottle": _bottle,
    "book": _book,
    "ball": _ball,
    "lamp": _lamp,
    "box": _box,
    "hat": _hat,
}
ACTIONS: dict[str, Callable[[Pen], None]] = {
    "cutting": _cut,
    "pouring": _pour,
    "writing": _write,
    "hammering": _hammer,
    "typing": _type,
    "reading": _read,
}
ENVIRONMENTS: dict[str, tuple[Colour, Colour, Callable[[Pen], None]]] = {
    "kitchen": ((252, 246, 236), (250, 244, 236), _kitchen),
    "office": ((244, 246, 250), (244, 246, 250), _office),
    "workshop": ((246, 232, 206), (250, 244, 230), _workshop),
    "street": ((222, 236, 250), (242, 242, 244), _street),
    "garden": ((226, 242, 252), (236, 248, 232), _garden),
}
"""The wall, the ground, and what stands at the wall."""
