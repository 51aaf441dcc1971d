from __future__ import annotations

import re
from importlib.resources import files

import pytest

STYLE = (files("limbeck.report") / "page.css").read_text()
THEMES = {
    "light": STYLE[: STYLE.index("@media")],
    "dark": STYLE[STYLE.index(':root[data-theme="dark"]') :].split("}")[0],
}


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_every_text_colour_is_readable_on_its_ground(theme):
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", THEMES[theme]))
    texts = ["ink", "soft", "teacher", "student", "baseline", "control", "good", "bad", "even"]
    texts += [f"extra{i}" for i in range(4)]
    grounds = ["paper", "raised", "faint"]
    pairs = [(t, g) for t in texts for g in grounds] + [("warn", "warn-back"), ("ink", "warn-back")]
    low = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs}
    assert {pair: round(c, 2) for pair, c in low.items() if c < 4.5} == {}


def test_both_ways_to_get_the_dark_theme_give_the_same_colours():
    dark = re.findall(r"--([\w-]+): (#[0-9a-f]{6})", STYLE)
    by_name: dict[str, list[str]] = {}
    for name, colour in dark:
        by_name.setdefault(name, []).append(colour)
    assert all(len(found) == 3 and found[1] == found[2] for found in by_name.values())


def test_the_style_asks_for_nothing_from_outside():
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert "@font-face" not in STYLE
