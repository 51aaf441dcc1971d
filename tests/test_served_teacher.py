"""A recipe whose teacher is on a server, through every stage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, FaultyModel, Sent, streamed
from limbeck import pipeline
from limbeck.errors import UsageError
from limbeck.graph import graph_of
from limbeck.graph.budget import visual_budgets
from limbeck.report.differences import compare_files
from test_pipeline import TRAINING, tiny_recipe
from vllm_server import VllmServer

TEXT_ONLY = {
    "seeds": [0],
    "label": {"limit": 8, "signal": "none", "batch_size": 4},
    "losses": [{"kind": "cross_entropy"}],
    "benchmark__models": None,
    "evaluate__models": ["teacher", "student"],
}


def teacher(chat: ChatServer, **fields: Any) -> dict[str, Any]:
    return {"backend": "openai", "base_url": chat.url, "model": "m", **fields}


@pytest.fixture(scope="module")
def faulty() -> Iterator[tuple[FaultyModel, ChatServer]]:
    model = FaultyModel(0.1, hang=0.0)
    with ChatServer(model) as server:
        yield model, server


def test_text_alone_makes_a_student_and_an_honest_report(
    faulty: tuple[FaultyModel, ChatServer], tmp_path: Path
) -> None:
    model, server = faulty
    prices = {"price_per_million_prompt_tokens": 2, "price_per_million_answer_tokens": 4}
    recipe = tiny_recipe(tmp_path, teacher=teacher(server, **prices), **TEXT_ONLY)
    result = pipeline.run(recipe)
    made = [row["kind"] for row in result.stages]
    assert made.count("benchmark") == 1, "the student, and not the teacher"
    results = json.loads((tmp_path / "runs" / "tiny" / "results.json").read_text())
    assert {row["arm"] for row in results["evaluation"]["arms"]} >= {"teacher", "student"}
    assert set(results["costs"]) == {"student"}
    assert results["gains"] == {}
    assert "its cost was not compared, since the teacher is served" in result.verdict
    claims = {claim["key"]: claim for claim in results["verdict"]["claims"]}
    for key in ("size", "latency", "memory"):
        assert claims[key]["outcome"] == "not_measured"
        assert "runs on a server" in claims[key]["why"]
    assert any("the teacher is served" in warning for warning in results["warnings"])
    page = result.report.read_text()
    assert "the teacher is served" in page
    usage = results["labels"]["usage"]
    assert usage["requests"] >= 8
    assert usage["cost"] > 0
    assert results["stages"]

    asked = sum(model.requests.values())
    again = tiny_recipe(
        tmp_path, teacher=teacher(server), **TEXT_ONLY, label__checks={"max_characters": 500}
    )
    rerun = pipeline.run(again, until="evaluate")
    assert "labels" in [row["kind"] for row in rerun.stages if not row["cached"]]
    assert sum(model.requests.values()) == asked, "other checks and prices cost nothing"


def test_a_plan_needs_no_server_and_counts_what_is_left(tmp_path: Path) -> None:
    section = {"backend": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    recipe = tiny_recipe(tmp_path, teacher=section, **TEXT_ONLY)
    plan = pipeline.build_plan(recipe)
    assert not plan.problems
    assert not list(tmp_path.iterdir())
    assert "teacher" not in visual_budgets(recipe)


def test_a_served_teacher_is_timed_on_request_and_compared_with_nothing_that_ran_here(
    tmp_path: Path,
) -> None:
    plain = FaultyModel()

    def model(body: dict[str, Any], headers: dict[str, str]) -> Sent:
        if not body.get("stream"):
            return plain(body, headers)
        count = body["max_tokens"] if "ignore_eos" in body else 3
        return streamed(["a "] * count, first_seconds=0.02, each_seconds=0.002)

    with ChatServer(model) as chat:
        served = teacher(chat, concurrency=2, system_prompt="be brief")
        changes = {**TEXT_ONLY, "benchmark__served": True}
        result = pipeline.run(tiny_recipe(tmp_path, teacher=served, **changes))
    results = json.loads((tmp_path / "runs" / "tiny" / "results.json").read_text())
    assert set(results["served"]) == {"teacher"}
    assert set(results["costs"]) == {"student"}
    assert results["gains"] == {}
    assert "its cost was not compared, since the teacher is served" in result.verdict
    assert any("its server and the network" in warning for warning in results["warnings"])
    regimes = {one["regime"] for one in results["served"]["teacher"]["measurements"]}
    assert "served/fixed_length/concurrency_2" in regimes
    assert "Served models" in result.report.read_text()
    found = compare_files(result.report.parent, result.report.parent)
    assert "teacher (served)" in {row["model"] for row in found["measurements"]}


def test_timing_a_served_teacher_is_refused(tmp_path: Path) -> None:
    section = {"backend": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    changes = {**TEXT_ONLY, "benchmark__models": ["teacher", "student"]}
    with pytest.raises(UsageError, match=r"benchmark\.models: a served teacher"):
        graph_of(tiny_recipe(tmp_path, teacher=section, **changes))


@pytest.mark.parametrize(
    ("signal", "losses"),
    [
        ("top_k", [{"kind": "divergence"}]),
        ("live", [{"kind": "divergence", "direction": "reverse"}]),
        ("live", [{"kind": "divergence", "target": "student"}]),
        ("top_k", [{"kind": "cross_tokenizer"}]),
    ],
)
def test_a_student_learns_from_log_probabilities_of_a_server(
    taught_model: Path, tmp_path: Path, signal: str, losses: list[dict[str, Any]]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with VllmServer(taught_model, pictures) as server:
        section = teacher(
            server,
            server="vllm",
            log_probabilities=True,
            tokenizer=str(taught_model),
            scored_tokens=6,
        )
        recipe = tiny_recipe(
            tmp_path / "work",
            seeds=[0],
            teacher=section,
            student={"model": str(taught_model)},
            label={
                "limit": 6,
                "signal": signal,
                "top_k": 6,
                "max_new_tokens": 64,
                "checks": {"max_unfit_share": 0.9},
            },
            losses=losses,
            training={**TRAINING, "on_policy": {"max_new_tokens": 8}},
            evaluate__models=["student"],
            benchmark__models=None,
        )
        result = pipeline.run(recipe, until="train")
    (student,) = (row for row in result.stages if row["kind"] == "student")
    rows = [json.loads(line) for line in (Path(student["folder"]) / "metrics.jsonl").open()]
    assert all(row["loss"] == row["loss"] and row["loss"] >= 0 for row in rows)
    summary = json.loads((Path(student["folder"]) / "MANIFEST.json").read_text())["summary"]
    live = summary["preflight"]["live_teacher"]
    assert (live is None) is (signal != "live")
    if live:
        assert "is served at" in live


def test_temperatures_that_a_few_tokens_cannot_answer_for_are_refused(
    taught_model: Path, tmp_path: Path
) -> None:
    section = {
        "backend": "openai",
        "base_url": "http://127.0.0.1:9/v1",
        "model": "m",
        "server": "vllm",
        "log_probabilities": True,
        "tokenizer": str(taught_model),
    }
    with pytest.raises(UsageError, match=r"losses\.0\.temperature.*set it to 1"):
        graph_of(
            tiny_recipe(
                tmp_path,
                teacher=section,
                label={"signal": "live"},
                losses=[{"kind": "divergence", "temperature": 2.0}],
            )
        )
