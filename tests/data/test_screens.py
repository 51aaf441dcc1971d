"""The synthetic screens: deterministic, held-out by combination, drawn so that they can be read."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys

import pytest
from PIL import Image, ImageChops, ImageFont

from limbeck.data.sources.drawing import CELL, draw_screen
from limbeck.data.sources.screens import APPS, LABELS, STATES, TITLES, Screens
from limbeck.errors import UsageError
from limbeck.recipe.component import build_component

WORDS = re.compile(r"\w+|[^\w\s]")


def rows(**options: int) -> list:
    return list(Screens(**{"train": 200, "validation": 20, "test": 40, **options}).rows())


@pytest.fixture(scope="module")
def many() -> list:
    return rows(train=2000, seed=1)


def pixels(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_another_process_draws_the_same_pixels() -> None:
    code = """
import hashlib, io
from PIL import Image
from limbeck.data.sources.screens import Screens
digest = hashlib.sha256()
for row in Screens(train=60, validation=5, test=5, seed=3).rows():
    digest.update(Image.open(io.BytesIO(row.images[0])).convert("RGB").tobytes())
    digest.update(repr((row.id, row.references, row.metadata)).encode())
print(digest.hexdigest())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, env={"PYTHONHASHSEED": s}
        ).stdout
        for s in ("1", "2")
    }
    assert len(found) == 1


def test_unlabelled_screens_are_further_ones_like_those_of_training(many: list) -> None:
    made = rows(unlabelled=50)
    assert made[:260] == rows(), "they change nothing of the others"
    further = made[260:]
    assert [row.split for row in further] == ["unlabelled"] * 50
    assert not any(row.references or "elements" in row.metadata for row in further)
    pictures = [row.images[0] for row in made]
    assert len(set(pictures)) == len(pictures)


def test_no_held_out_combination_is_trained_on_whatever_the_sizes_and_seeds(many) -> None:
    trained = {row.references[0] for row in many if row.split == "train"}
    for seed in (1, 2):
        held_out = {row.references[0] for row in rows(test=300, seed=seed) if row.split != "train"}
        assert not trained & held_out


def test_each_combination_occurs_once(many) -> None:
    texts = [row.references[0] for row in many]
    assert len(set(texts)) == len(texts)


def test_a_larger_set_only_adds_and_the_test_set_stays() -> None:
    small = {row.id: row for row in rows(train=50)}
    large = {row.id: row for row in rows(train=300)}
    assert all(large[name] == row for name, row in small.items())


def test_other_seeds_give_other_screens() -> None:
    assert rows(seed=1)[0].references != rows(seed=2)[0].references


def test_answers_are_short_and_their_words_few(many) -> None:
    texts = [WORDS.findall(row.references[0]) for row in many]
    assert max(map(len, texts)) <= 30
    assert 40 <= len({word for text in texts for word in text}) <= 100


def test_text_and_structure_say_the_same() -> None:
    for row in rows():
        (text,) = row.references
        match = re.fullmatch(r"(\w+) screen of a (\w+) app\. Elements: (.+)\.", text)
        assert match
        assert match[3].split(", ") == row.metadata["elements"]
        assert match[2] == row.metadata["category"]
        assert match[1].lower() == row.metadata["screen"]


def test_every_word_occurs_in_every_role(many) -> None:
    elements = {item for row in many for item in row.metadata["elements"]}
    expected = {f"{s} {kind} {label}" for kind in STATES for s in STATES[kind] for label in LABELS}
    assert elements == expected
    assert {row.metadata["category"] for row in many} == set(APPS)
    assert {row.metadata["screen"] for row in many} == set(TITLES)


def test_words_fit_their_cells() -> None:
    for words, size, room in ((APPS, 12, CELL), (TITLES, 14, 2 * CELL), (LABELS, 15, 2 * CELL)):
        font = ImageFont.load_default(size)
        assert max(font.getlength(word) for word in words) <= room - 3


def test_each_word_and_state_changes_only_its_own_cells() -> None:
    def screen(app: str = "mail", title: str = "login", element: tuple = ("on", "toggle", "wifi")):
        return pixels(
            draw_screen(96, 128, app=app, title=title, elements=[element] * 2, ground=255)
        )

    base = screen()
    for other, (left, right) in (
        (screen(app="chat"), (0, 32)),
        (screen(title="home"), (32, 96)),
        (screen(element=("on", "toggle", "name")), (0, 64)),
        (screen(element=("off", "toggle", "wifi")), (64, 96)),
    ):
        box = ImageChops.difference(base, other).getbbox()
        assert box is not None
        assert left <= box[0] < box[2] <= right


def test_every_control_and_state_looks_different() -> None:
    cells = set()
    for kind, states in STATES.items():
        for state in states:
            drawn = draw_screen(
                96, 64, app="mail", title="home", elements=[(state, kind, "wifi")], ground=255
            )
            cells.add(hashlib.sha256(pixels(drawn).crop((64, 32, 96, 64)).tobytes()).digest())
    assert len(cells) == sum(len(states) for states in STATES.values())


def test_ink_is_dark_on_light_ground() -> None:
    for row in rows()[:30]:
        histogram = pixels(row.images[0]).convert("L").histogram()
        assert sum(histogram[240:]) > 0.6 * 96 * 128
        assert sum(histogram[:60]) > 100


@pytest.mark.parametrize(("width", "height"), [(96, 96), (96, 64), (128, 160), (160, 256)])
def test_sizes_on_the_grid(width: int, height: int) -> None:
    made = rows(width=width, height=height, train=30)
    assert {pixels(row.images[0]).size for row in made} == {(width, height)}
    assert max(len(row.metadata["elements"]) for row in made) == height // CELL - 1


@pytest.mark.parametrize("options", [{"width": 100}, {"height": 32}, {"height": 64, "test": 40000}])
def test_sizes_that_cannot_be_are_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        build_component("limbeck.data.sources", "source", {"source": "screens", **options})
