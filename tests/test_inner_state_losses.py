"""Losses on inner states through the pipeline: cached or live, shared, and gone at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from limbeck import pipeline
from limbeck.errors import UsageError
from test_pipeline import BUILD, tiny_recipe

LOSSES = [
    {"kind": "cross_entropy"},
    {"kind": "hidden_states", "layers": "every", "measure": "mse"},
    {"kind": "vision_features"},
    {"kind": "attention_transfer"},
    {"kind": "relational", "relation": "distance"},
]
SMALL = {**BUILD, "layers": 1, "hidden_size": 64}


def recipe(work: Path, **changes: Any) -> Any:
    options = {
        "seeds": [0],
        "losses": LOSSES,
        "teacher__attention": "eager",
        "student": {"build": SMALL, "attention": "eager"},
        "evaluate__models": ["student"],
        "benchmark__models": None,
        "training__precision": "fp32",
        "training__log_every": 1,
    }
    return tiny_recipe(work, **{**options, **changes})


def stage(result: pipeline.RunResult, title: str) -> Path:
    return next(Path(row["folder"]) for row in result.stages if row["title"] == title)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "MANIFEST.json").read_text())["summary"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pipeline.RunResult]:
    work = tmp_path_factory.mktemp("work")
    return work, pipeline.run(recipe(work), until="train")


def test_every_loss_is_trained_and_reported(finished: tuple[Path, pipeline.RunResult]) -> None:
    parts = rows(stage(finished[1], "student-seed0"))[0]["losses"]
    assert set(parts) == {loss["kind"] for loss in LOSSES}
    assert all(value > 0 for value in parts.values()), parts


def test_the_teachers_states_are_cached_by_what_is_read(
    finished: tuple[Path, pipeline.RunResult],
) -> None:
    made = [row["title"] for row in finished[1].stages if row["kind"] == "features"]
    assert made == [loss["kind"] for loss in LOSSES[1:]]
    for title in made:
        facts = summary(stage(finished[1], title))
        assert facts["samples"] == 8
        assert 0 < facts["relative_error"] < 0.02
    assert len(summary(stage(finished[1], "hidden_states"))["taps"]) == 1


def test_other_weights_measures_and_seeds_read_nothing_anew(
    finished: tuple[Path, pipeline.RunResult],
) -> None:
    work, _ = finished
    losses = [{**loss, "weight": 0.5} for loss in LOSSES]
    losses[1]["measure"] = "cosine"
    losses[4]["relation"] = "similarity"
    again = pipeline.run(recipe(work, losses=losses, seeds=[0, 1]), until="train")
    made = {row["kind"] for row in again.stages if not row["cached"]}
    assert made == {"student", "models"}, "the second seed's student before training is new"


def test_projectors_are_trained_and_not_in_the_student(
    finished: tuple[Path, pipeline.RunResult], tmp_path: Path
) -> None:
    _, result = finished
    student = stage(result, "student-seed0")
    plain = pipeline.run(recipe(tmp_path, losses=LOSSES[:1]), until="train")
    with_features = load_file(student / "student" / "model.safetensors")
    without = load_file(stage(plain, "student-seed0") / "student" / "model.safetensors")
    assert with_features.keys() == without.keys()
    facts, other = summary(student), summary(stage(plain, "student-seed0"))
    wide, narrow = BUILD["hidden_size"], SMALL["hidden_size"]
    extra = facts["trainable_parameters"] - other["trainable_parameters"]
    assert extra == 2 * wide * narrow, "one map for hidden states, one for vision features"


def test_a_live_teacher_gives_what_the_cache_gives_but_for_its_coding(
    finished: tuple[Path, pipeline.RunResult], tmp_path: Path
) -> None:
    live = pipeline.run(recipe(tmp_path, label__signal="live"), until="train")
    assert not [row for row in live.stages if row["kind"] == "features"]
    cached = rows(stage(finished[1], "student-seed0"))[0]["losses"]
    for name, value in rows(stage(live, "student-seed0"))[0]["losses"].items():
        assert value == pytest.approx(cached[name], rel=0.02, abs=1e-5), name


def test_a_killed_training_with_projectors_ends_in_the_same_bytes(
    finished: tuple[Path, pipeline.RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_pipeline import Killed, kill_in

    changes: dict[str, Any] = {"training__checkpoint_every": 1}
    undo = kill_in("student", monkeypatch)
    with pytest.raises(Killed):
        pipeline.run(recipe(tmp_path, **changes), until="train")
    undo()
    result = pipeline.run(recipe(tmp_path, **changes), until="train")
    one, other = (
        load_file(stage(run, "student-seed0") / "student" / "model.safetensors")
        for run in (finished[1], result)
    )
    assert all(tensor.equal(other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher__attention": "auto"}, r"losses\.3.*teacher\.attention to eager"),
        ({"student": {"build": SMALL}}, r"student\.attention to eager"),
        (
            {
                "losses": [{"kind": "hidden_states", "target": "gold"}],
                "label__answers": "generated",
            },
            "states along gold answers",
        ),
        ({"losses": [{"kind": "hidden_states", "target": "student"}]}, "label.signal is top_k"),
        (
            {"losses": [LOSSES[1]], "training__head_gradient_tolerance": 0.003},
            "no loss is computed from logits",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        pipeline.build_plan(recipe(tmp_path, **changes))


def test_the_heads_gradient_can_be_filtered_beside_losses_on_inner_states(tmp_path: Path) -> None:
    pipeline.build_plan(recipe(tmp_path, training__head_gradient_tolerance=0.003))


def test_states_of_a_quarter_of_the_samples_are_kept_when_a_block_is_killed(
    finished: tuple[Path, pipeline.RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import limbeck.labelling.features as features
    from limbeck.teachers.transformers import _Open

    monkeypatch.setattr(features, "SAMPLES_PER_BLOCK", 2)
    original, asked = _Open.features, []

    def die(self: Any, samples: Any, *rest: Any) -> Any:
        asked.extend(sample.id for sample in samples)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return original(self, samples, *rest)

    monkeypatch.setattr(_Open, "features", die)
    only = {"losses": [LOSSES[0], LOSSES[1]]}
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(recipe(tmp_path, **only), until="train")
    first, asked[:] = asked[:4], []
    monkeypatch.setattr(
        _Open, "features", lambda *a: (asked.extend(s.id for s in a[1]), original(*a))[1]
    )
    pipeline.run(recipe(tmp_path, **only), until="train")
    assert len(asked) == 4
    assert not set(asked) & set(first)


# -- layers that speak ---------------------------------------------------------------------------

SPEAKING = {
    "kind": "verbalised",
    "student_layers": 1,
    "teacher_layers": 1,
    "verbalisers": {"steps": 4, "samples_per_step": 4, "learning_rate": 1e-2},
}


def speaking(work: Path, loss: dict[str, Any] | None = None, **changes: Any) -> Any:
    losses = [{"kind": "divergence"}, {**SPEAKING, **(loss or {})}]
    return recipe(
        work, losses=losses, student={"build": SMALL}, teacher__attention="auto", **changes
    )


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pipeline.RunResult]:
    work = tmp_path_factory.mktemp("spoken")
    return work, pipeline.run(speaking(work), until="train")


def test_both_models_learn_to_speak_and_every_choice_is_counted(
    spoken: tuple[Path, pipeline.RunResult],
) -> None:
    _, result = spoken
    own = summary(stage(result, "student-seed0 before training"))
    theirs = next(
        summary(Path(row["folder"]))
        for row in result.stages
        if (row["kind"], row["title"]) == ("verbalisers", "teacher")
    )
    assert own["layers"] == [0]
    assert theirs["layers"] == [0, 1]
    last = rows(stage(result, "student-seed0"))[-1]
    assert last["losses"]["verbalised"] > 0
    matches = last["matches"]
    assert len(matches) == 1
    assert len(matches[0]) == 2
    steps = summary(stage(result, "student-seed0"))["steps"]
    assert sum(matches[0]) >= steps, "one choice a micro-batch"
    names = load_file(stage(result, "student-seed0") / "student" / "model.safetensors")
    assert not [name for name in names if "verbal" in name or "matches" in name]


def test_other_ways_to_match_teach_nobody_to_speak_anew(
    spoken: tuple[Path, pipeline.RunResult],
) -> None:
    work, _ = spoken
    for changes in ({"matching": "uniform"}, {"order": False, "search_range": False}):
        again = pipeline.run(speaking(work, changes), until="train")
        assert {row["kind"] for row in again.stages if not row["cached"]} == {"student"}


def test_a_killed_interaction_ends_in_the_same_bytes_and_counts(
    spoken: tuple[Path, pipeline.RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_pipeline import Killed, kill_in

    changes = {"training__checkpoint_every": 1}
    undo = kill_in("student", monkeypatch)
    killed = 0
    for _ in range(4):  # the stages of verbalisers are trainings as well
        try:
            result = pipeline.run(speaking(tmp_path, **changes), until="train")
            break
        except Killed:
            killed += 1
    undo()
    assert killed == 1
    result = pipeline.run(speaking(tmp_path, **changes), until="train")
    one, other = (stage(run, "student-seed0") for run in (spoken[1], result))
    assert rows(one)[-1]["matches"] == rows(other)[-1]["matches"]
    own, theirs = (load_file(f / "student" / "model.safetensors") for f in (one, other))
    assert all(tensor.equal(theirs[name]) for name, tensor in own.items())
