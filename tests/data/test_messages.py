"""Every chat format that is accepted ends in the same prompt."""

from __future__ import annotations

import pytest

from limbeck.data.messages import normalise
from limbeck.errors import DataError

IMAGE = {"type": "image"}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def user(content: object) -> dict:
    return {"role": "user", "content": content}


ONE_IMAGE = {
    "placeholder": ([user("<image>\nWhat?")], ["a.png"]),
    "placeholder_windows": ([user("<image>\r\nWhat?")], ["a.png"]),
    "no_placeholder": ([user("What?")], ["a.png"]),
    "bare_part": ([user([IMAGE, text("What?")])], ["a.png"]),
    "part_with_image": ([user([{"type": "image", "image": "a.png"}, text("What?")])], []),
    "part_with_url": ([user([{"type": "image", "url": "a.png"}, text("What?")])], []),
    "part_with_path": ([user([{"type": "image", "path": "a.png"}, text("What?")])], []),
    "openai": (
        [user([{"type": "image_url", "image_url": {"url": "a.png"}}, text("What?")])],
        [],
    ),
    "openai_short": ([user([{"type": "image_url", "image_url": "a.png"}, text("What?")])], []),
    "text_as_part": ([user([IMAGE, "What?"])], ["a.png"]),
    "arrow_nulls": (
        [
            user(
                [
                    {"type": "image", "text": None, "image": None},
                    {"type": "text", "text": "What?", "image": None},
                ]
            )
        ],
        ["a.png"],
    ),
    "sharegpt": ([{"from": "human", "value": "<image>\nWhat?"}], ["a.png"]),
}


@pytest.mark.parametrize("name", ONE_IMAGE)
def test_every_format_becomes_the_same_prompt(name: str) -> None:
    messages, images = ONE_IMAGE[name]
    prompt, found, answers = normalise(messages, images, None, where="x")
    assert prompt == (user([IMAGE, text("What?")]),)
    assert found == ["a.png"]
    assert answers == ()


def test_images_keep_the_order_of_their_places() -> None:
    messages = [
        user("First <image> then <image>."),
        {"role": "assistant", "content": "Seen."},
        user([{"type": "image", "image": "inline"}, IMAGE, text("And now?")]),
    ]
    prompt, found, _ = normalise(messages, ["a", "b", "c"], [], where="x")
    assert found == ["a", "b", "inline", "c"]
    first = [text("First "), IMAGE, text(" then "), IMAGE, text(".")]
    assert prompt[0]["content"] == first
    assert prompt[1] == {"role": "assistant", "content": [text("Seen.")]}
    assert prompt[2]["content"] == [IMAGE, IMAGE, text("And now?")]


def test_final_assistant_turn_is_the_first_answer() -> None:
    messages = [user("Hi"), {"role": "assistant", "content": [text("One.")]}]
    prompt, _, answers = normalise(messages, [], ["Two.", "One.", " "], where="x")
    assert prompt == (user([text("Hi")]),)
    assert answers == ("One.", "Two.")


def test_a_placeholder_in_an_answer_is_text() -> None:
    messages = [user("Which tag?"), {"role": "assistant", "content": "<image> it is"}]
    assert normalise(messages, [], None, where="x")[2] == ("<image> it is",)


def test_system_turn_stays_first() -> None:
    messages = [{"role": "system", "content": "Be brief."}, user("Hi")]
    prompt, found, _ = normalise(messages, ["a"], None, where="x")
    assert prompt[0] == {"role": "system", "content": [text("Be brief.")]}
    assert prompt[1]["content"] == [IMAGE, text("Hi")]
    assert found == ["a"]


def test_the_row_is_not_changed() -> None:
    messages = [user([{"type": "image", "image": "a"}, text("Hi")])]
    normalise(messages, [], None, where="x")
    assert messages == [user([{"type": "image", "image": "a"}, text("Hi")])]


BROKEN = {
    "no_list": ("Hi", [], "not a list"),
    "no_turns": ([], [], "not a list with at least one"),
    "turn_is_text": (["Hi"], [], "not a mapping"),
    "role": ([{"role": "tool", "content": "x"}], [], "'tool' is not known"),
    "no_role": ([{"content": "x"}], [], "NoneType"),
    "role_is_list": ([{"role": ["user"], "content": "x"}], [], "type list"),
    "no_content": ([{"role": "user"}], [], "neither text nor a list"),
    "content_number": ([user(3)], [], "neither text nor a list"),
    "text_number": ([user([{"type": "text", "text": 3}])], [], "int, not a string"),
    "text_missing": ([user([{"type": "text"}])], [], "NoneType, not a string"),
    "surrogate": ([user("\ud800")], [], "surrogate"),
    "part_kind": ([user([{"type": "audio"}])], [], "'audio' is not supported"),
    "empty": ([user("  ")], [], "empty"),
    "too_few_images": ([user("<image><image> Hi")], ["a"], "2 places for images but the row has 1"),
    "too_many_images": ([user("<image> Hi")], ["a", "b"], "1 places .* has 2"),
    "two_and_no_place": ([user("Hi")], ["a", "b"], "0 places .* has 2"),
    "only_answer": ([{"role": "assistant", "content": "x"}], [], "does not end with a user"),
    "two_answers": (
        [user("x"), *[{"role": "assistant", "content": "y"}] * 2],
        [],
        "does not end with a user",
    ),
    "blank_answer": ([user("x"), {"role": "assistant", "content": " "}], [], "turn is empty"),
    "image_in_answer": ([user("x"), {"role": "assistant", "content": [IMAGE]}], ["a"], "assistant"),
    "late_system": ([user("x"), {"role": "system", "content": "y"}, user("z")], [], "system"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_chats_are_refused_with_the_place(name: str) -> None:
    messages, images, cause = BROKEN[name]
    with pytest.raises(DataError, match=cause) as caught:
        normalise(messages, images, None, where="rows.jsonl:17")
    assert str(caught.value).startswith("rows.jsonl:17: ")


@pytest.mark.parametrize("references", [3, [None], ["a", 1], {"a": "b"}])
def test_references_have_to_be_texts(references: object) -> None:
    with pytest.raises(DataError):
        normalise([user("Hi")], [], references, where="x")
