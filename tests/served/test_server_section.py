"""The recipe's fields of a server: slips are named, and a key is never shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.errors import LimbeckError, TeacherError
from limbeck.recipe import load_recipe
from limbeck.teachers.openai import OpenAI

KEY = "sk-Very-Secret-0123456789"
RECIPE = """
name: served
data: {source: screens}
teacher: {backend: openai, %s}
student: {build: {family: qwen2_vl}}
label: {signal: none}
losses: [{kind: cross_entropy}]
"""
HERE = "base_url: http://localhost:8000/v1, model: m"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (f"{HERE}, api_key_env: {KEY}", "teacher.api_key_env: must be the name of an environment"),
        (f"{HERE}, api_key: {KEY}", "unknown key 'api_key'; did you mean 'api_key_env'"),
        (f"base_url: 'https://user:{KEY}@host/v1', model: m", "must hold no user, password"),
        (f"base_url: 'https://host/v1?key={KEY}', model: m", "must hold no user, password"),
        ("base_url: 'localhost:8000', model: m", "begins with http://"),
        ("base_url: 'http://h/v1/chat/completions', model: m", "must end before"),
        (f"{HERE}, max_cost: 5", "teacher.max_cost: needs the prices"),
        (f"{HERE}, log_probabilities: true", "teacher.tokenizer: is needed"),
        (f"{HERE}, extra_body: {{messages: []}}", "teacher.extra_body.messages: is not a field"),
    ],
)
def test_slips_are_named_and_keys_are_not(tmp_path: Path, fields: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE % fields)
    result = CliRunner().invoke(app, ["plan", str(path), "--debug"])
    assert result.exit_code == 2
    assert message in result.output
    assert KEY[-8:] not in result.output, "nor in the traceback"


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch, screens: Path) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    section = OpenAI(base_url="http://localhost/v1", model="m", api_key_env="NO_SUCH_KEY")
    with pytest.raises(TeacherError, match="NO_SUCH_KEY is not set"):
        section.open(screens, device="cpu")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"signal": "top_k", "temperatures": [1]}, "cannot give log-probabilities"),
        ({"signal": "hidden"}, "cannot show its hidden states"),
        ({"signal": "live"}, "cannot score answers"),
    ],
)
def test_signals_that_it_cannot_give_are_refused_early(
    tmp_path: Path, label: dict[str, Any], message: str
) -> None:
    from limbeck.graph import graph_of

    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE % HERE)
    changes = [f"label.{name}={json.dumps(value)}" for name, value in label.items()]
    with pytest.raises(LimbeckError, match=message):
        graph_of(load_recipe(path, changes))


def test_identity_is_what_changes_answers(taught_model: Path) -> None:
    def identity(**fields: Any) -> dict[str, Any]:
        given = {"base_url": "http://localhost:8000/v1", "model": "m", **fields}
        return OpenAI.model_validate(given).identity()

    plain = identity()
    for same in (
        {"concurrency": 2},
        {"api_key_env": "KEY"},
        {"max_retries": 1, "timeout_seconds": 5, "requests_per_minute": 9, "max_requests": 3},
        {"price_per_million_prompt_tokens": 1, "max_cost": 3},
        {"base_url": "http://localhost:8000/v1/"},
    ):
        assert identity(**same) == plain
    for other in (
        {"model": "n"},
        {"base_url": "http://localhost:8001/v1"},
        {"max_pixels": 100},
        {"image_format": "jpeg"},
        {"extra_body": {"top_p": 0.5}},
        {"tokenizer": str(taught_model)},
    ):
        assert identity(**other) != plain
    moved = [identity(base_url=f"http://node{n}:8000/v1", deployment="our 72B") for n in range(2)]
    assert moved[0] == moved[1] != plain


def test_a_key_in_plain_http_is_warned_about(
    screens: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    for url, warned in (
        ("http://models.example/v1", True),
        ("https://models.example/v1", False),
        ("http://127.0.0.1:9/v1", False),
        ("http://[::1]:9/v1", False),
    ):
        section = OpenAI(base_url=url, model="m", api_key_env="TEST_KEY")
        section.open(screens, device="cpu").close()
        said = capsys.readouterr().err
        assert ("unencrypted" in said) is warned
        assert KEY not in said
