"""Who may judge, and the judge in a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer
from judging_server import Judges
from limbeck import pipeline
from limbeck.errors import UsageError
from limbeck.graph import graph_of
from limbeck.recipe import Recipe
from test_pipeline import BUILD, tiny_recipe

SERVED = {"backend": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "Org/Big-VL-70B"}


def plain(work: Path, judge: dict[str, Any], **changes: Any) -> Recipe:
    """A recipe in which nothing is trained."""
    return tiny_recipe(
        work,
        **{
            "seeds": [0],
            "teacher": {"backend": "transformers", "build": BUILD},
            "evaluate__models": ["teacher", "baseline", "most_frequent"],
            "evaluate__judge": judge,
            "label__signal": "none",
            "losses": [{"kind": "cross_entropy"}],
            "benchmark__models": [],
            **changes,
        },
    )


PAIRS = {"pairs": [["baseline", "most_frequent"]], "calibration": 2}


@pytest.mark.parametrize(
    "judge",
    [
        SERVED,
        {**SERVED, "base_url": "https://elsewhere.example/v1", "model": "big-vl-70b"},
        {"backend": "mixture", "teachers": [SERVED, {**SERVED, "model": "n"}], "route": "all"},
    ],
    ids=["the same", "served elsewhere", "one of several"],
)
def test_the_teacher_may_not_judge_unless_it_is_forced(
    tmp_path: Path, judge: dict[str, Any]
) -> None:
    section = {"model": judge, **PAIRS}
    with pytest.raises(UsageError, match="the teacher would judge its own answers") as caught:
        graph_of(plain(tmp_path, section, teacher=SERVED))
    assert caught.value.where == "evaluate.judge.model"
    forced = plain(tmp_path, {**section, "force_teacher": True}, teacher=SERVED)
    assert "judge" in [stage.kind for stage in graph_of(forced).stages]


def test_the_weights_tell_the_teacher_whatever_runs_them(
    tmp_path: Path, tiny_model: Path, varied_model: Path
) -> None:
    teacher = {"backend": "transformers", "model": str(tiny_model)}
    link = tmp_path / "another-name"
    link.symlink_to(tiny_model)
    for other in ("vllm", "transformers"):
        judge = {"model": {"backend": other, "model": str(link)}, **PAIRS}
        with pytest.raises(UsageError, match="the teacher would judge"):
            graph_of(plain(tmp_path, judge, teacher=teacher))
    fine = {"model": {"backend": "transformers", "model": str(varied_model)}, **PAIRS}
    graph_of(plain(tmp_path, fine, teacher=teacher))
    tuned = {**teacher, "fine_tune": {"training": {"steps": 1}}}
    graph_of(plain(tmp_path, {"model": teacher, **PAIRS}, teacher=tuned))


@pytest.mark.parametrize(
    ("judge", "where"),
    [
        ({}, "evaluate.judge.pairs"),
        ({"pairs": [["baseline", "control"]]}, "evaluate.judge.pairs.0"),
        ({"mode": "pointwise", "models": ["control"]}, "evaluate.judge.models"),
    ],
)
def test_what_is_not_evaluated_cannot_be_judged(
    tmp_path: Path, judge: dict[str, Any], where: str
) -> None:
    with pytest.raises(UsageError) as caught:
        graph_of(plain(tmp_path, {"model": SERVED, **judge}))
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": [["a", "a"]]}, "compares an arm with itself"),
        ({"pairs": [["a", "b"], ["b", "a"]]}, "is listed twice"),
        ({"mode": "pointwise", "pairs": [["a", "b"]]}, "belongs to mode: pairwise"),
        ({"models": ["a"]}, "belongs to mode: pointwise"),
        ({"model": {**SERVED, "few_shot": {"count": 1}}}, "would not show it how to judge"),
    ],
)
def test_a_section_that_contradicts_itself_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plain(tmp_path, {"model": SERVED, **fields})


def test_a_run_is_judged_once_and_its_report_says_so(tmp_path: Path) -> None:
    judges = Judges(lambda shown: "VERDICT: TIE")
    with ChatServer(judges) as chat:
        judge = {"model": {**SERVED, "base_url": chat.url, "model": "qwen-big"}, **PAIRS}
        result = pipeline.run(plain(tmp_path, judge))
        asked = len(judges.bodies)
        assert asked
        kinds = [row["kind"] for row in result.stages]
        assert "predictions" not in kinds[kinds.index("judge") :]
        pipeline.run(plain(tmp_path, judge))
        pipeline.run(plain(tmp_path, judge, evaluate__seed=7))
        assert len(judges.bodies) == asked, "nothing is paid for twice"
    results = json.loads((tmp_path / "runs" / "tiny" / "results.json").read_text())
    assert results["judge"]["name"] == "qwen-big"
    assert results["judge"]["identity"]["model"] == "qwen-big"
    assert "end with one line" in results["judge"]["prompt"]["closing"]
    assert results["judge"]["sentences"] == []
    warnings = " ".join(results["warnings"])
    assert "the judge is of the family of teacher and student (qwen)" in warnings
    assert "the judge qwen-big is of no use" in warnings
    report = tmp_path / "runs" / "tiny" / "report"
    for name in ("index.html", "README.md"):
        page = (report / name).read_text()
        assert "What the judge says" in page
        assert "The judge on pairs of known outcome" in page
        assert (
            "baseline against most_frequent" in page or "baseline against most\\_frequent" in page
        )


def test_a_forced_teacher_is_warned_of_aloud(tmp_path: Path) -> None:
    judges = Judges(lambda shown: "VERDICT: A")
    with ChatServer(judges) as chat:
        teacher = {**SERVED, "base_url": chat.url}
        section = {"model": teacher, **PAIRS, "force_teacher": True}
        models = ["baseline", "most_frequent"]
        recipe = plain(tmp_path, section, teacher=teacher, evaluate__models=models)
        pipeline.run(recipe, until="evaluate")
    (path,) = (tmp_path / "judge").glob("*/judge.json")
    found = json.loads(path.read_text())
    assert found["forced_teacher"]
    assert found["warnings"][0].startswith("THE JUDGE IS THE TEACHER (forced)")


def test_a_recipe_without_judge_has_the_stages_it_had(tmp_path: Path) -> None:
    judge = {"model": SERVED, **PAIRS}
    plans = [
        {s.fingerprint for s in graph_of(plain(tmp_path, one)).stages if s.kind != "report"}
        for one in (None, judge)
    ]
    assert len(plans[1] - plans[0]) == 1
    assert plans[0] < plans[1]
