"""Egocentric question answering sets: folders laid out as their authors publish them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from limbeck.data.prepare import prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources.ego_qa import EgoQA
from limbeck.errors import DataError
from limbeck.metrics.exact_match import ExactMatch

CLIP = "27470817-f803-45b4-b9d4-e754cb3196bc_368.4019995568589_403.56079044314106"


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 80, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


def gif(shade: int, frames: int = 5) -> bytes:
    buffer = io.BytesIO()
    first, *rest = [Image.new("RGB", (40, 30), (shade, 20 * n, 9)) for n in range(frames)]
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=500)
    return buffer.getvalue()


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def egothink(root: Path) -> None:
    for kind, question, answer in (
        ("Activity", "What am I doing?", "tightening the screws"),
        ("Localization/spatial", "Is there a man on my left?", "No."),
    ):
        entries = [
            {
                "source_dataset": "ego4d",
                "image_path": [f"{number}.jpg"],
                "question": question,
                "answer": answer,
            }
            for number in (1, 2)
        ]
        write(root / kind / "annotations.json", entries)
        for number in (1, 2):
            write_bytes(root / kind / "images" / f"{number}.jpg", jpeg(number + len(kind)))


def egoschema(root: Path) -> None:
    uids = ["001934bb-81bd-4cd8-a574-0472ef3f6678", "0074f737-11cb-497d-8d07-77c3a8127391"]
    questions = [
        {
            "q_uid": uid,
            "google_drive_id": "15yGB0TI5zG5usdQZOXn0CrRzkJNB0gMl",
            "question": "What is c's main objective?",
            **{f"option {i}": f"C does thing {i}." for i in range(5)},
        }
        for uid in uids
    ]
    write(root / "questions.json", questions)
    write(root / "subset_answers.json", {uids[1]: 3})
    for uid in uids:
        write_bytes(root / "videos" / f"{uid}.gif", gif(int(uid[4], 16)))


def egotempo(root: Path) -> None:
    entry = {
        "question_id": f"{CLIP}_0",
        "clip_id": CLIP,
        "question_type": "object-specific action",
        "question": "What does the person pick up before rubbing their hands together?",
        "answer": "The oil remover spray. ",
    }
    info = {"release date": "19.03.2025", "version": "1.0"}
    write(root / "egotempo_openQA.json", {"info": info, "annotations": [entry]})
    write_bytes(root / "trimmed" / f"{CLIP}.gif", gif(7))


def samples_of(root: Path, **options: Any) -> list[Any]:
    prepare(EgoQA(path=str(root), **options), root / "out")
    return read_samples(root / "out")


def text_of(sample: Any) -> str:
    return sample.messages[0]["content"][-1]["text"]


def test_egothink_has_a_question_type_for_each_folder(tmp_path: Path):
    egothink(tmp_path)
    samples = samples_of(tmp_path, layout="egothink")
    assert [s.id for s in samples] == [
        *("Activity/1", "Activity/2", "Localization_spatial/1", "Localization_spatial/2")
    ]
    assert {s.split for s in samples} == {"test"}
    assert samples[0].metadata == {"question_type": "Activity"}
    assert text_of(samples[2]) == "Is there a man on my left?"
    assert samples[2].references == ("No.",)
    assert [len(s.images) for s in samples] == [1] * 4


def test_egoschema_asks_for_the_number_of_an_option(tmp_path: Path):
    egoschema(tmp_path)
    unlabelled, known = samples_of(tmp_path, layout="egoschema", frames=3)
    assert (unlabelled.split, unlabelled.references) == ("unlabelled", ())
    assert (known.split, known.references) == ("test", ("3",))
    assert known.id == "0074f737-11cb-497d-8d07-77c3a8127391"
    assert text_of(known) == (
        "What is c's main objective?\n0: C does thing 0.\n1: C does thing 1.\n2: C does thing 2.\n"
        "3: C does thing 3.\n4: C does thing 4.\nAnswer with the number of the right option."
    )
    assert len(known.images) == 3
    assert known.metadata["frame_seconds"] == [[0.0, 1.0, 2.0]]


def test_every_option_is_told_from_every_other_and_from_no_answer():
    metric = ExactMatch()
    for right in range(5):
        for said in ["", "a", *map(str, range(5))]:
            [[value]] = metric.statistics([said], [[str(right)]])
            assert value == (said == str(right)), (said, right)


def test_egotempo_finds_its_clips_where_it_is_told(tmp_path: Path):
    egotempo(tmp_path)
    [sample] = samples_of(tmp_path, layout="egotempo", videos="trimmed", frames=2)
    assert sample.id == f"{CLIP}_0"
    assert sample.references == ("The oil remover spray.",)
    assert sample.metadata["question_type"] == "object-specific action"
    assert len(sample.images) == 2


def test_videos_may_lie_in_another_place(tmp_path: Path):
    egotempo(tmp_path / "set")
    (tmp_path / "set" / "trimmed").rename(tmp_path / "elsewhere")
    source = EgoQA(
        layout="egotempo", path=str(tmp_path / "set"), videos=str(tmp_path / "elsewhere")
    )
    assert prepare(source, tmp_path / "out")["samples"] == {"test": 1}


def test_the_prompt_surrounds_the_question(tmp_path: Path):
    egothink(tmp_path)
    samples = samples_of(tmp_path, layout="egothink", prompt="{question} Answer in short.")
    assert text_of(samples[0]) == "What am I doing? Answer in short."


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"question": None}, "'question' is not text"),
        ({"answer": 3}, "'answer' is not text"),
        ({"clip_id": "../../secret"}, "not the name of a video"),
        ({"clip_id": "another"}, "cannot read"),
    ],
)
def test_what_is_wrong_with_a_question_is_quarantined(change: dict, cause: str, tmp_path: Path):
    egotempo(tmp_path)
    file = tmp_path / "egotempo_openQA.json"
    content = json.loads(file.read_text())
    content["annotations"].append({**content["annotations"][0], "question_id": "bad", **change})
    file.write_text(json.dumps(content))
    samples_of(tmp_path, layout="egotempo", videos="trimmed", max_broken_share=0.6)
    [line] = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "bad"
    assert cause in json.loads(line)["reason"]


def test_questions_without_their_text_as_in_a_newer_file_are_named(tmp_path: Path):
    """The file of the repository's last commits has the options alone."""
    egoschema(tmp_path)
    questions = json.loads((tmp_path / "questions.json").read_text())
    for entry in questions:
        del entry["question"]
    write(tmp_path / "questions.json", questions)
    with pytest.raises(DataError, match="question has no 'question'"):
        samples_of(tmp_path, layout="egoschema")


def test_an_answer_that_is_no_option_is_named(tmp_path: Path):
    egoschema(tmp_path)
    write(tmp_path / "subset_answers.json", {"0074f737-11cb-497d-8d07-77c3a8127391": 5})
    samples_of(tmp_path, layout="egoschema", max_broken_share=0.5)
    assert "not one of 0 to 4" in (tmp_path / "out" / "quarantine.jsonl").read_text()


@pytest.mark.parametrize("layout", ["egothink", "egoschema", "egotempo", "qaego4d"])
def test_a_folder_of_another_kind_is_refused(layout: str, tmp_path: Path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError):
            list(EgoQA(layout=layout, path=str(path)).rows())


@pytest.mark.parametrize("text", ["{", "{}", '{"annotations": 3}', "[" * 100_000])
def test_annotations_that_are_no_list_are_refused(text: str, tmp_path: Path):
    (tmp_path / "egotempo_openQA.json").write_text(text)
    with pytest.raises(DataError, match="egotempo_openQA"):
        list(EgoQA(layout="egotempo", path=str(tmp_path)).rows())
