"""Each check names what it is for and lets pass what only looks like it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import UsageError
from limbeck.labelling.language import is_in_language
from limbeck.labelling.repetition import repeated_grams, repetition
from limbeck.labelling.validity import is_refusal, unfit_reasons
from limbeck.recipe.component import misfit
from limbeck.recipe.labelling import Checks, Labelling
from limbeck.recipe.sections import Section

ROOT = Path(__file__).resolve().parents[2]
CAPTIONS = Path(os.environ.get("LIMBECK_TEST_DATA", ROOT.parent / "shared" / "data"))
CAPTIONS = CAPTIONS / "coco" / "captions_val2017_refs.json"


def reasons(text: str, finished: bool = True, **checks: Any) -> list[str]:
    known = {k: checks.pop(k) for k in ("mean_log_probability", "agreement") if k in checks}
    return list(unfit_reasons(text, finished, Checks(**checks), **known))


@pytest.mark.parametrize(
    ("checks", "unfit", "fit", "reason"),
    [
        ({"min_words": 3}, "two words", "three whole words", "shorter than 3 words"),
        ({"max_words": 3}, "one two three four", "one two three", "longer than 3 words"),
        ({"min_words": 4}, "登录页", "登录页面", "shorter than 4 words"),
        ({"max_words": 4}, "应用的登录", "登录页面", "longer than 4 words"),
        ({"forbidden": (r"(?i)lorem",)}, "Lorem ipsum", "A screen.", "holds what is forbidden"),
        ({"pattern": r"\d+ .*"}, "no number", "3 buttons", "does not match the pattern"),
        ({"format": "json"}, '{"a": 1', '{"a": [1, 2]}', "is not JSON"),
        ({"format": "json"}, "[NaN]", "[null]", "is not JSON"),
        ({"format": "json"}, "```json\n{}\n```", "{}", "is not JSON"),
        ({"format": "json"}, "[" * 100_000, "[[]]", "is not JSON"),
        ({"format": "list", "min_items": 3}, "on, off, ", "a, b, c", "lists fewer than 3 items"),
        ({"format": "one_of", "choices": ("yes", "no")}, "Yes", " no\n", "none of the choices"),
        ({"language": "de"}, "It is the screen of a bank.", "Die Ansicht.", "not in language de"),
    ],
)
def test_a_check_names_what_it_is_for_and_lets_the_rest_pass(
    checks: dict[str, Any], unfit: str, fit: str, reason: str
) -> None:
    assert any(reason in found for found in reasons(unfit, **checks)), reasons(unfit, **checks)
    assert reasons(fit, **checks) == []


def test_confidence_and_agreement_are_judged_where_they_are_known() -> None:
    checks = {"min_mean_log_probability": -1.0, "min_agreement": 0.5}
    assert reasons("Fine.", **checks) == []
    assert reasons("Fine.", **checks, mean_log_probability=-0.5, agreement=0.5) == []
    assert reasons("Odd.", **checks, mean_log_probability=-1.5, agreement=0.4) == [
        "mean log-probability below -1",
        "agreement below 0.5",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I can’t assist.",
        "I cannot view images, but you could describe it to me.",
        "I'm unable to view images directly.",
        "I am not able to see the picture you attached.",
        "Unfortunately, I cannot provide that.",
        "As an AI language model, I have no eyes.",
        "I'm just an AI and cannot see.",
        "I don't have the ability to process this image.",
        "I can't identify people in this photo.",
        "  *I don't see any image in your message.*",
    ],
)
def test_refusals_are_noticed(text: str) -> None:
    assert is_refusal(text)
    assert "refuses" in reasons(text)
    assert reasons(text, refusals=False) == []


@pytest.mark.parametrize(
    "text",
    [
        "A dialog that says: I'm sorry, I can't help with that.",
        '"Sorry" page of a shop: the item is sold out.',
        "Sorry screen. Elements: enabled button help.",
        "I can see the keys on the table.",
        "I cannot see it from here, the door is closed.",
        "An error: the file cannot be opened.",
        "Upload your picture: screen of a photo app.",
        "Unfortunate event in a game.",
        "As an airport map, it shows the gates.",
        "Ai Weiwei's website.",
        "Help with this question: a search page.",
    ],
)
def test_answers_that_only_look_like_refusals_pass(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "aaaaaaa",
        "the the the",
        "!!!!!!!!!!!!!!!!",
        "hahahahahaha",
        "The button is blue. The button is blue. The button is blue. The button is blue.",
        "这是这是这是这是这是",
        "按钮" * 20,
        "A screen of a bank app.\nA list.\nA list.\nA list.\nA list.\nA list.",
        "Login page: " + "x" * 60,
        "0" * 64,
        "a screen with a button and a screen with a button and a screen with a button and",
        "ยยยยยยยยย",
    ],
)
def test_answers_that_repeat_themselves_are_noticed(text: str) -> None:
    assert repetition(text) > 0.5
    assert "repeats itself" in reasons(text)
    assert reasons(text, max_repetition=1) == []


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "1000000",
        "555 555 555",
        "no, no",
        "on toggle wifi, on toggle sound, off toggle alarm, on toggle theme, off toggle date",
        "New York, New York",
        "A very, very, very large red button at the bottom of the screen.",
        "ooh",
        "www.example.com",
        "这是一个银行应用的登录页面，上面有一个按钮和两个输入框。",
        "これは銀行アプリのログイン画面です。",
        "- a\n- b\n- a",
        "| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |",
        "10:00, 10:10, 10:20, 10:30",
    ],
)
def test_answers_that_repeat_little_pass(text: str) -> None:
    assert repetition(text) <= 0.5, repetition(text)


def test_repetition_of_words_is_a_share_of_4_grams() -> None:
    assert repeated_grams("a b c d e f") == 0
    assert repeated_grams("a a a a a a a") == pytest.approx(3 / 4)
    assert repeated_grams("short") == 0


@pytest.mark.parametrize(
    ("text", "language", "wrong"),
    [
        ("The screen of a bank app with the button save and a list of the accounts.", "en", "de"),
        ("Die Ansicht einer Bank-App mit einem Knopf und der Liste der Konten.", "de", "en"),
        (
            "L'écran d'une application avec un bouton et la liste des comptes dans le menu.",
            *["fr", "en"],
        ),
        ("La pantalla de una aplicación con un botón y la lista de las cuentas.", "es", "en"),
        ("La schermata di una app con un pulsante e la lista dei conti nel menu.", "it", "de"),
        ("Het scherm van een app met een knop en de lijst van de rekeningen.", "nl", "en"),
        ("A tela de um aplicativo com um botão e a lista das contas não pagas.", "pt", "en"),
        ("银行应用的登录页面。", "zh", "ja"),
        ("これは銀行アプリのログイン画面です。", "ja", "zh"),
        ("은행 앱의 로그인 화면입니다.", "ko", "zh"),
        ("Экран входа в приложение банка.", "ru", "en"),
        ("شاشة تسجيل الدخول", "ar", "he"),
        ("מסך הכניסה", "he", "ar"),
        ("Οθόνη σύνδεσης", "el", "ru"),
        ("लॉगिन स्क्रीन", "hi", "th"),
        ("หน้าจอเข้าสู่ระบบ", "th", "hi"),
    ],
)
def test_languages_are_told_apart_by_script_and_small_words(
    text: str, language: Any, wrong: Any
) -> None:
    assert is_in_language(text, language)
    assert not is_in_language(text, wrong) or (language, wrong) == ("zh", "ja")


def test_what_is_too_short_to_tell_passes() -> None:
    assert is_in_language("Login", "de")
    assert is_in_language("42", "ru")
    assert is_in_language("Settings of the WLAN", "de")


@pytest.mark.skipif(not CAPTIONS.is_file(), reason=f"no {CAPTIONS}")
def test_human_captions_pass_every_check_but_where_people_refused_too() -> None:
    loaded = json.loads(CAPTIONS.read_text())
    captions = [text for own in loaded.values() for text in own]
    assert len(captions) > 20_000
    unfit = [(text, found) for text in captions if (found := reasons(text, language="en"))]
    assert len(unfit) == 6
    assert all(text.startswith("I am unable to see") for text, _ in unfit)


def test_a_pattern_that_never_ends_is_given_up() -> None:
    started = time.monotonic()
    found = reasons("a" * 40 + "!", pattern=r"(a|aa)+$", max_repetition=1)
    assert found[0] in ("a pattern took longer than 1 s", "does not match the pattern")
    assert time.monotonic() - started < 5
    found = reasons("ab" * 3000, forbidden=(r"(?:(a|b|ab)*)*c(x+x+)+y",), max_repetition=1)
    assert time.monotonic() - started < 8


def test_judging_long_answers_takes_milliseconds() -> None:
    text = " ".join(f"word{i % 977} of{i % 13}" for i in range(2000))
    started = time.monotonic()
    for _ in range(10):
        reasons(text, language="en")
    assert (time.monotonic() - started) / 10 < 0.2


@pytest.mark.parametrize(
    ("section", "values", "where"),
    [
        (Checks, {"pattern": "("}, "pattern"),
        (Checks, {"forbidden": ["ok", "["]}, "forbidden.1"),
        (Checks, {"format": "one_of"}, "choices"),
        (Checks, {"choices": ["a"]}, "choices"),
        (Checks, {"min_items": 2}, "min_items"),
        (Checks, {"min_words": 5, "max_words": 4}, "min_words"),
        (Labelling, {"samples": 4}, "samples"),
        (Labelling, {"samples": 4, "answers": "gold", "temperature": 1}, "samples"),
        (Labelling, {"choose": "agreement"}, "choose"),
        (Labelling, {"samples": 2, "temperature": 1, "choose": "luck"}, "choose"),
        (Labelling, {"samples": 2, "temperature": 1, "choose": "reference:bleuu"}, "choose"),
        (Labelling, {"samples": 2, "temperature": 1, "choose": "reference:cider_d"}, "choose"),
        (Labelling, {"checks": {"min_agreement": 0.5}}, "checks.min_agreement"),
        (Labelling, {"gold_share": 0.5, "answers": "gold"}, "gold_share"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_load(
    section: type[Section], values: dict[str, Any], where: str
) -> None:
    from pydantic import ValidationError

    with pytest.raises((UsageError, ValidationError)) as caught:
        section.model_validate(values)
    error = caught.value
    if isinstance(error, ValidationError):
        error = misfit(error, section, values)
    assert error.where == where
