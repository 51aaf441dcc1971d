from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import UsageError
from limbeck.graph import graph_of
from test_pipeline import tiny_recipe

SERVER = {"backend": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
TEXT_ONLY = {
    "seeds": [0],
    "label": {"limit": 8, "signal": "none", "batch_size": 4},
    "losses": [{"kind": "cross_entropy"}],
    "evaluate__models": ["teacher", "student"],
}


def stages(tmp_path: Path, **changes: Any):
    graph = graph_of(tiny_recipe(tmp_path, **{**TEXT_ONLY, **changes}))
    assert not graph.problems
    return {stage.title: stage for stage in graph.stages if stage.kind == "benchmark"}


def test_a_served_teacher_is_timed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    plain = stages(tmp_path, teacher=SERVER, benchmark__models=None)
    assert list(plain) == ["student-seed0"]
    asked = stages(tmp_path, teacher=SERVER, benchmark__models=None, benchmark__served=True)
    assert list(asked) == ["student-seed0", "teacher, served"]
    listed = ["teacher", "student"]
    also = stages(tmp_path, teacher=SERVER, benchmark__models=listed, benchmark__served=True)
    assert list(also) == list(asked)
    assert asked["student-seed0"].fingerprint == plain["student-seed0"].fingerprint


def test_servers_are_timed_by_themselves_and_need_the_data_alone(tmp_path: Path) -> None:
    found = stages(tmp_path, benchmark__models=[], benchmark__servers={"exported": SERVER})
    assert list(found) == ["exported, served"]
    assert [stage.kind for stage in found["exported, served"].reads.values()] == ["data"]


def test_what_changes_a_served_measurement_changes_its_fingerprint(tmp_path: Path) -> None:
    def of(**changes: Any) -> str:
        server = {**SERVER, **changes.pop("server", {})}
        found = stages(tmp_path, benchmark__models=[], benchmark__servers={"s": server}, **changes)
        return found["s, served"].fingerprint

    assert of() == of(server={"max_retries": 3}, benchmark__batch_sizes=[2])
    for other in (
        {"server": {"model": "n"}},
        {"server": {"system_prompt": "be brief"}},
        {"server": {"concurrency": 3}},
        {"benchmark__concurrency": [2]},
        {"benchmark__new_tokens": 5},
    ):
        assert of(**other) != of(), other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark__served": True}, r"benchmark\.served: .*not of transformers"),
        (
            {"benchmark__servers": {"s": {"backend": "vllm", "model": "m"}}},
            r"benchmark\.servers\.s: .*not of vllm",
        ),
        ({"benchmark__servers": {"teacher": SERVER}}, r"the recipe's own teacher"),
        ({"benchmark__concurrency": [4]}, r"no served model is timed"),
        (
            {"benchmark__servers": {"s": SERVER}, "benchmark__concurrency": [16]},
            r"16 requests at once are more than the 8",
        ),
        ({"benchmark__servers": {"../s": SERVER}}, r"benchmark\.servers"),
    ],
)
def test_what_cannot_be_timed_is_refused_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        graph_of(tiny_recipe(tmp_path, **{**TEXT_ONLY, **changes}))
