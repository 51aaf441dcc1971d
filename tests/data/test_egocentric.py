"""The synthetic first-person scenes: held out by combination, balanced, answers in the pixels."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from limbeck.data.prepare import prepare
from limbeck.data.sources import Row
from limbeck.data.sources.egocentric import ANSWERS, DESCRIPTION, PLACES, Egocentric, Scene
from limbeck.data.sources.scenes import (
    ACTIONS,
    COLOURS,
    COLUMNS,
    ENVIRONMENTS,
    ROWS,
    SKINS,
    THINGS,
    UNITS,
    Thing,
    draw_scene,
)
from limbeck.errors import UsageError
from limbeck.recipe.component import build_component

CHANCE = {kind: 1 / len(answers) for kind, answers in ANSWERS.items()}


def rows(**options: int) -> list[Row]:
    """Questions alone, without descriptions."""
    options = {"train": 60, "validation": 4, "test": 20, "described": 0, **options}
    return list(Egocentric(**options).rows())


@pytest.fixture(scope="module")
def many() -> list[Row]:
    return rows(train=480, test=120, seed=1)


def kind_of(row: Row) -> str:
    return row.metadata["question_type"]


def question_of(row: Row) -> str:
    return row.messages[0]["content"][-1]["text"]


def pixels(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def scene(
    environment: str = "office",
    things: tuple[Thing, ...] = (Thing("cup", "red", 1),),
    action: str = "cutting",
    cell_pixels: int = UNITS,
    skin: tuple[int, int, int] = SKINS[0],
) -> Image.Image:
    return pixels(
        draw_scene(
            environment=environment,
            things=things,
            action=action,
            skin=skin,
            shift=(0, 0),
            cell_pixels=cell_pixels,
        )
    )


def test_another_process_draws_the_same_pixels() -> None:
    code = """
import hashlib, io
from PIL import Image
from limbeck.data.sources.egocentric import Egocentric
digest = hashlib.sha256()
for row in Egocentric(train=12, validation=2, test=3, seed=3).rows():
    for image in row.images:
        digest.update(Image.open(io.BytesIO(image)).convert("RGB").tobytes())
    digest.update(repr((row.id, row.messages, row.references, row.metadata)).encode())
print(digest.hexdigest())
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": s},
        ).stdout
        for s in ("1", "2")
    }
    assert len(found) == 1


def test_each_scene_has_a_question_of_every_type_about_the_same_pictures(many: list[Row]) -> None:
    scenes: dict[str, list[Row]] = defaultdict(list)
    for row in many:
        scenes[row.metadata["scene"]].append(row)
    for own in scenes.values():
        assert [kind_of(row) for row in own] == list(ANSWERS)
        assert len({row.metadata["environment"] for row in own}) == 1
        [both] = [row.images for row in own if kind_of(row) == "temporal"]
        assert len(set(both)) == 2
        assert all(row.images == both[-1:] for row in own if kind_of(row) != "temporal")


def test_no_picture_is_in_two_splits_whatever_the_sizes_and_seeds(many: list[Row]) -> None:
    trained = {image for row in many for image in row.images if row.split == "train"}
    for seed in (1, 2, 3, 4):
        made = rows(test=400, validation=100, seed=seed)
        held_out = {image for row in made for image in row.images if row.split != "train"}
        assert len(held_out) > 900
        assert not trained & held_out


def test_scenes_that_differ_by_what_is_done_alone_are_in_one_split() -> None:
    things = (Thing("cup", "red", 1), Thing("hat", "blue", 2))
    for environment in ENVIRONMENTS:
        splits = {
            Scene(environment, things, (first, last)).split()
            for first in ACTIONS
            for last in ACTIONS
        }
        assert len(splits) == 1


def test_a_larger_set_only_adds_and_the_test_set_stays() -> None:
    small = {row.id: row for row in rows(train=20)}
    large = {row.id: row for row in rows(train=90)}
    assert all(large[name] == row for name, row in small.items())


def test_other_seeds_ask_about_other_scenes() -> None:
    assert [row.references for row in rows(seed=1)] != [row.references for row in rows(seed=2)]


def test_answers_come_from_closed_lists_and_each_equally_often(many: list[Row]) -> None:
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in many:
        [answer] = row.references
        counts[str(row.split), kind_of(row)][answer] += 1
    for (_, kind), counter in counts.items():
        assert set(counter) <= set(ANSWERS[kind])
    for split in ("train", "test"):
        for kind, answers in ANSWERS.items():
            counter = counts[split, kind]
            assert set(counter) == set(answers)
            assert max(counter.values()) / counter.total() < CHANCE[kind] + 0.04, (split, kind)


def test_the_question_s_words_say_nothing_about_the_answer(many: list[Row]) -> None:
    """The most frequent answer to each wording in training is right at chance on the others."""
    best: dict[str, Counter[str]] = defaultdict(Counter)
    for row in many:
        if row.split == "train":
            best[question_of(row)][row.references[0]] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for row in many:
        if row.split == "test":
            guess = best[question_of(row)].most_common(1)[0][0]
            right[kind_of(row)].append(guess == row.references[0])
    for kind, own in right.items():
        error = (CHANCE[kind] * (1 - CHANCE[kind]) / len(own)) ** 0.5
        assert sum(own) / len(own) < CHANCE[kind] + 4 * error, kind


def test_the_chance_of_guessing_is_in_the_statistics(tmp_path: Path) -> None:
    prepare(Egocentric(train=120, validation=0, test=60, described=0), tmp_path)
    shares = json.loads((tmp_path / "statistics.json").read_text())
    shares = shares["most_frequent_answer_share"]
    assert set(shares) == {"train", "test"}
    for kind, share in shares["train"].items():
        assert CHANCE[kind] <= share < CHANCE[kind] + 0.08


def test_the_pictures_show_what_the_answers_say() -> None:
    """Scenes with one thing, whose answers say all of it, drawn anew from the answers."""
    by_scene: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows(train=60, validation=0, test=0):
        by_scene[row.metadata["scene"]][kind_of(row)] = row
    checked = 0
    for own in by_scene.values():
        answers = {kind: row.references[0] for kind, row in own.items()}
        if answers["counting"] != "one":
            continue
        checked += 1
        place = PLACES.index(answers["spatial reasoning"])
        thing = Thing(answers["object recognition"], answers["attributes"], place)
        earlier = question_of(own["temporal"]) == "What did I do first?"
        before = answers["temporal"] if earlier else None
        expected = {
            draw_scene(
                environment=answers["environment"],
                things=(thing,),
                action=answers["action understanding"],
                skin=skin,
                shift=(x, y),
                cell_pixels=UNITS,
            )
            for skin in SKINS
            for x in (-1, 0, 1)
            for y in (-1, 0, 1)
        }
        first, last = own["temporal"].images
        assert last in expected
        assert earlier or answers["temporal"] == answers["action understanding"]
        assert before != answers["action understanding"]
        assert first != last
    assert checked == 15


def test_a_thing_changes_its_own_cell_and_an_action_the_hands_alone() -> None:
    base = scene()
    for other, (left, top, right, bottom) in (
        (scene(things=(Thing("hat", "red", 1),)), (32, 32, 64, 64)),
        (scene(things=(Thing("cup", "blue", 1),)), (32, 32, 64, 64)),
        (scene(action="reading"), (0, 64, 128, 96)),
        (scene(skin=SKINS[3]), (0, 64, 128, 96)),
    ):
        box = ImageChops.difference(base, other).getbbox()
        assert box is not None
        assert left <= box[0] < box[2] <= right
        assert top <= box[1] < box[3] <= bottom


def test_every_thing_action_and_place_looks_different() -> None:
    pictures = [scene(things=(Thing(k, c, p),)) for k in THINGS for c in COLOURS for p in range(4)]
    pictures += [scene(action=action) for action in ACTIONS if action != "cutting"]
    pictures += [scene(environment=name) for name in ENVIRONMENTS if name != "office"]
    digests = {hashlib.sha256(picture.tobytes()).digest() for picture in pictures}
    assert len(digests) == len(pictures)


def test_words_are_few() -> None:
    words = {word for row in rows() for word in f"{question_of(row)} {row.references[0]}".split()}
    assert len(words) <= 80
    assert set(" ".join(PLACES).split()) <= {word.strip("?") for word in words}


@pytest.mark.parametrize("cell_pixels", [32, 64, 144])
def test_larger_pictures_show_the_same(cell_pixels: int) -> None:
    made = rows(cell_pixels=cell_pixels, train=5)
    assert {pixels(row.images[0]).size for row in made} == {
        (COLUMNS * cell_pixels, ROWS * cell_pixels)
    }
    assert [row.references for row in made] == [row.references for row in rows(train=5)]


def test_more_training_scenes_are_described_frame_by_frame() -> None:
    made = rows(train=30, described=40)
    plain = [row for row in made if kind_of(row) != DESCRIPTION]
    described = [row for row in made if kind_of(row) == DESCRIPTION]
    assert plain == rows(train=30)
    assert {row.split for row in described} == {"train"}
    assert not {row.metadata["scene"] for row in plain} & {
        row.metadata["scene"] for row in described
    }
    assert len(described) == 80
    for first, last in zip(described[::2], described[1::2], strict=True):
        match = re.fullmatch(r"(\w+) in the (\w+): (.+)\.", last.references[0])
        assert match
        assert match[2] == last.metadata["environment"]
        assert first.images != last.images
        assert first.references[0].partition(" in ")[2] == last.references[0].partition(" in ")[2]
        things = [
            Thing(words[-1], words[-2], PLACES.index(" ".join(words[:-2])))
            for words in map(str.split, match[3].split(", "))
        ]
        expected = {
            draw_scene(
                environment=match[2],
                things=tuple(things),
                action=match[1],
                skin=skin,
                shift=(x, y),
                cell_pixels=UNITS,
            )
            for skin in SKINS
            for x in (-1, 0, 1)
            for y in (-1, 0, 1)
        }
        assert last.images[0] in expected


def test_the_prompt_surrounds_the_question() -> None:
    source = Egocentric(train=1, validation=0, test=0, described=0, prompt="{question} One word.")
    assert [question_of(row) for row in source.rows()][-1] == "Where am I? One word."


@pytest.mark.parametrize(
    "options", [{"cell_pixels": 40}, {"cell_pixels": 16}, {"test": 20_000}, {"prompt": "What?"}]
)
def test_options_that_cannot_be_are_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        build_component("limbeck.data.sources", "source", {"source": "egocentric", **options})
