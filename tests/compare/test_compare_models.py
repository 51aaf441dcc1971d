"""What can be compared, and how a new picture is asked about."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from finished_recipe import finished

from limbeck.compare.answering import Answerers
from limbeck.compare.models import comparison_of
from limbeck.compare.questions import ask_about, ask_again, question_of, store_upload
from limbeck.compare.terminal import compare_once, describe
from limbeck.data.samples import read_samples
from limbeck.errors import DataError, TeacherError, UsageError
from limbeck.models.load import load_model
from limbeck.recipe import Recipe
from limbeck.recipe.sections import ModelSection
from limbeck.records import Sample


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, varied_model: Path) -> Recipe:
    return finished(tmp_path_factory.mktemp("compare") / "work", varied_model)


def picture(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 128), "navy").save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_the_first_seed_answers_unless_a_seed_is_named(recipe: Recipe) -> None:
    found = comparison_of(recipe, ["teacher", "student", "student-seed4"])
    assert [model.id for model in found.models] == ["teacher", "student-seed3", "student-seed4"]
    folders = [model.inputs.get("model") for model in found.models]
    assert folders[0] is None
    assert folders[1] != folders[2]


@pytest.mark.parametrize("names", [["most_frequent"], ["student", "student"], ["student-seed9"]])
def test_what_is_no_model_is_refused(recipe: Recipe, names: list[str]) -> None:
    with pytest.raises(UsageError):
        comparison_of(recipe, names)


def test_a_model_that_was_not_trained_names_the_command_that_does(recipe: Recipe) -> None:
    longer = recipe.training.model_copy(update={"steps": 3})
    with pytest.raises(DataError, match="run limbeck train first"):
        comparison_of(recipe.model_copy(update={"training": longer}), ["student"])


def test_answers_are_those_of_the_trained_weights_with_time_and_memory(recipe: Recipe) -> None:
    comparison = comparison_of(recipe, ["teacher", "student"])
    sample = read_samples(comparison.data, "test")[0]
    with Answerers(recipe, comparison) as models:
        replies = {name: models.answer(name, sample) for name in ("teacher", "student")}
    trained = comparison.models[1].inputs["model"] / "student"
    loaded = load_model(ModelSection(model=str(trained)), device="cpu")
    expected = loaded.generate(
        [loaded.encoder.encode(sample, comparison.data, None)], max_new_tokens=6
    )[0]
    assert replies["student"].text == expected.text
    assert replies["student"].tokens == len(expected.token_ids)
    assert 0 < replies["student"].seconds < 60
    assert replies["student"].memory_kind == "process RSS"
    assert replies["student"].memory_mib is not None
    assert replies["student"].memory_mib > 50


def test_a_process_that_died_is_started_anew_by_the_next_question(recipe: Recipe) -> None:
    comparison = comparison_of(recipe, ["student"])
    sample = read_samples(comparison.data, "test")[0]
    with Answerers(recipe, comparison) as models:
        first = models.answer("student", sample)
        models._models["student"]._process.process.kill()
        with pytest.raises(TeacherError, match="signal 9"):
            models.answer("student", sample)
        assert models.answer("student", sample).text == first.text


def test_a_question_of_the_data_is_asked_as_it_was_scored(recipe: Recipe) -> None:
    sample = read_samples(comparison_of(recipe, ["teacher"]).data, "test")[0]
    assert ask_again(sample, question_of(sample)) is sample
    other = ask_again(sample, "How many buttons?")
    assert question_of(other) == "How many buttons?"
    assert other.images == sample.images
    kinds = [[part["type"] for part in s.messages[-1]["content"]] for s in (sample, other)]
    assert kinds[0] == kinds[1]
    assert other.references == ()


@pytest.mark.parametrize("order", [("image", "text"), ("text", "image")])
def test_a_picture_of_the_users_is_asked_about_in_the_manner_of_the_data(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    upload = store_upload(picture(), tmp_path)
    parts = {"image": {"type": "image"}, "text": {"type": "text", "text": "old"}}
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    turns = ({"role": "user", "content": [parts["text"]]}, {"role": "assistant", "content": []})
    last = {"role": "user", "content": [parts[kind] for kind in order]}
    like = Sample("1", "test", (system, *turns, last), images=(upload.file,))
    asked = ask_about(upload, "new", [like])
    assert [turn["role"] for turn in asked.messages] == ["system", "user"]
    assert [part["type"] for part in asked.messages[-1]["content"]] == list(order)
    assert question_of(asked) == "new"
    assert asked.images == (upload.file,)


@pytest.mark.parametrize("question", ["", "  \n", "x" * 8001])
def test_an_empty_or_endless_question_is_refused(tmp_path: Path, question: str) -> None:
    upload = store_upload(picture(), tmp_path)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "old"}]}
    sample = Sample("1", "test", (message,), images=(upload.file,))
    with pytest.raises(UsageError):
        ask_about(upload, question, [sample])
    with pytest.raises(UsageError):
        ask_again(sample, question)


def test_an_upload_is_stored_without_its_metadata(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    upload = store_upload(picture(exif=exif), tmp_path)
    assert b"where I live" not in Path(upload.file.path).read_bytes()
    with pytest.raises(DataError):
        store_upload(b"<svg xmlns='http://www.w3.org/2000/svg'/>", tmp_path)


def test_one_question_on_the_terminal(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "new.png").write_bytes(picture())
    found = compare_once(recipe, tmp_path / "new.png", None, ["teacher", "baseline", "student"])
    assert list(found["answers"]) == ["teacher", "baseline", "student"]
    assert found["answers"]["teacher"]["text"] == found["answers"]["baseline"]["text"]
    json.dumps(found, allow_nan=False)
    text = describe(found)
    assert found["question"] in text
    assert "process RSS" in text
