"""A teacher's own prompt through every stage: as it labels, it is evaluated and timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from limbeck.data.samples import read_samples
from limbeck.errors import UsageError
from limbeck.graph import graph_of
from limbeck.recipe import Recipe, recipe_from
from limbeck.teachers import Decoding
from limbeck.teachers.specialised import specialised
from limbeck.teachers.transformers import Transformers


def recipe(work: Path, model: Path, teacher: dict[str, Any], **changes: Any) -> Recipe:
    own = {"backend": "transformers", "model": str(model)}
    return recipe_from(
        {
            "name": "tiny",
            "work": str(work),
            "seeds": [0],
            "data": {"source": "screens", "train": 24, "validation": 2, "test": 4},
            "teacher": {**own, **teacher} if "backend" not in teacher else teacher,
            "student": {"model": str(model)},
            "label": {"limit": 4, "top_k": 4, "answers": "gold"},
            "losses": ["divergence"],
            "training": {"steps": 1, "samples_per_step": 2, "precision": "fp32"},
            "evaluate": {
                "models": ["teacher"],
                "max_new_tokens": 6,
                "bootstrap": 100,
                "metrics": ["rouge_l"],
            },
            "benchmark": {
                "batch_sizes": [1],
                "new_tokens": 2,
                "max_new_tokens": 4,
                "samples": 2,
                "repeats": 1,
                "warmup": 0,
            },
            **changes,
        }
    )


def folder_of(result: pipeline.RunResult, kind: str) -> Path:
    return next(Path(row["folder"]) for row in result.stages if row["kind"] == kind)


def test_the_teacher_is_evaluated_and_timed_as_it_labels(tmp_path: Path, tiny_model: Path) -> None:
    told = {"system_prompt": "List the elements.", "few_shot": {"count": 2}}
    result = pipeline.run(recipe(tmp_path, tiny_model, told))
    data = folder_of(result, "data")
    teacher = Transformers.model_validate({"model": str(tiny_model), **told})
    session = specialised(teacher, data).open(data, device="cpu")
    expected = session.generate(read_samples(data, "test"), Decoding(6))
    lines = (folder_of(result, "predictions") / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == [a.text for a in expected]
    measured = json.loads((folder_of(result, "benchmark") / "results.json").read_text())
    own = session.visual_tokens(read_samples(data, "test")[0])
    assert own
    assert measured["visual_tokens_mean"] == 3 * own, "two examples and the question"
    key = json.loads((folder_of(result, "labels") / "signals.json").read_text())["key"]
    assert len(key["prompting"][0]["examples"]) == 2
    assert key["teacher"]["system_prompt"] == "List the elements."


def fingerprints(made: Recipe) -> dict[str, str]:
    return {stage.kind: stage.fingerprint for stage in graph_of(made).stages}


@pytest.mark.parametrize(
    "told",
    [
        {"system_prompt": "Be brief."},
        {"few_shot": {"count": 1}},
        {"few_shot": {"count": 1, "seed": 1}},
    ],
)
def test_what_a_teacher_is_told_is_in_the_fingerprint_of_all_that_it_does(
    tmp_path: Path, tiny_model: Path, told: dict[str, Any]
) -> None:
    plain, changed = (fingerprints(recipe(tmp_path, tiny_model, t)) for t in ({}, told))
    for kind in ("labels", "predictions", "benchmark"):
        assert plain[kind] != changed[kind]
    assert plain["data"] == changed["data"]


def test_a_fine_tuned_teacher_is_tuned_on_the_prompt_that_it_will_get(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import limbeck.training.stage as training

    seen: list[Any] = []

    def tune(output: Path, **arguments: Any) -> dict[str, Any]:
        seen.extend(arguments["samples"])
        return {}

    monkeypatch.setattr(training, "fine_tune", tune)
    told = {"system_prompt": "Be brief.", "fine_tune": {"training": {"steps": 1}}}
    made = recipe(tmp_path, tiny_model, told)
    stages = {stage.kind: stage for stage in graph_of(made).stages}
    data = pipeline.run(made, until="data").stages[-1]["folder"]
    stages["teacher"].make(tmp_path / "out", {"data": Path(data)})
    assert len(seen) == 24
    assert all(sample.messages[0]["role"] == "system" for sample in seen)
    plain = recipe(tmp_path, tiny_model, {**told, "system_prompt": None})
    assert fingerprints(plain)["teacher"] != stages["teacher"].fingerprint


def test_examples_of_the_evaluated_split_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    made = recipe(tmp_path, tiny_model, {"few_shot": {"count": 1, "split": "test"}})
    with pytest.raises(UsageError, match="which it is scored on") as raised:
        pipeline.run(made)
    assert "teacher.few_shot.split" in str(raised.value)


def test_listed_examples_of_the_evaluated_split_are_refused_before_labelling(
    tmp_path: Path, tiny_model: Path
) -> None:
    told = {"few_shot": {"ids": ["train-000001", "test-000002"]}}
    with pytest.raises(UsageError, match="answer of test-000002"):
        pipeline.run(recipe(tmp_path, tiny_model, told))
    assert not list((tmp_path / "labels").glob("*/labels.parquet"))


def mixed(route: Any) -> dict[str, Any]:
    build = {
        **{"family": "qwen2_vl", "hidden_size": 32, "layers": 1, "heads": 2, "key_value_heads": 1},
        **{"intermediate_size": 32, "vision_hidden_size": 16, "vision_layers": 1},
        "vision_heads": 2,
    }
    tuned = {
        "backend": "transformers",
        "build": build,
        "fine_tune": {
            "training": {
                **{"steps": 12, "samples_per_step": 4, "precision": "fp32"},
                "learning_rate": 0.01,
            }
        },
    }
    other = {**tuned, "fine_tune": {**tuned["fine_tune"], "seed": 1}, "system_prompt": "Look."}
    return {"backend": "mixture", "teachers": [tuned, other], "route": route}


def test_members_are_tuned_in_stages_of_their_own_and_labels_say_who_answered(
    tmp_path: Path, tiny_model: Path
) -> None:
    from limbeck.data.labels import read_labels

    changes = {
        "student": {"build": mixed("all")["teachers"][0]["build"]},
        "benchmark": {"models": []},
        "label": {"limit": 8, "top_k": 4, "answers": "gold"},
        "evaluate": {
            "models": ["teacher", "student"],
            "max_new_tokens": 4,
            "bootstrap": 100,
            "metrics": ["rouge_l"],
        },
    }
    made = recipe(tmp_path, tiny_model, mixed({"shares": [1, 1]}), **changes)
    result = pipeline.run(made)
    kinds = [row["kind"] for row in result.stages]
    assert kinds.count("teacher") == 2
    labels = folder_of(result, "labels")
    assert {row.teacher for row in read_labels(labels)} == {None}, "gold answers are nobody's"
    key = json.loads((labels / "signals.json").read_text())["key"]
    assert len(key["made_by"]) == 2
    assert key["prompting"] == [{"system_prompt": "Look."}]
    again = pipeline.run(made)
    assert all(row["cached"] for row in again.stages)
    swapped = mixed({"shares": [1, 1]})
    swapped["teachers"].reverse()
    other = fingerprints(recipe(tmp_path, tiny_model, swapped, **changes))
    assert other["labels"] != fingerprints(made)["labels"]


def test_the_report_counts_whose_answers_were_kept(tmp_path: Path, tiny_model: Path) -> None:
    from limbeck.data.labels import read_labels

    unchecked = {"must_finish": False, "max_unfit_share": 1, "max_repetition": 1}
    changes = {
        "student": {"build": mixed("all")["teachers"][0]["build"]},
        "benchmark": {"models": []},
        "label": {"limit": 6, "signal": "none", "max_new_tokens": 3, "checks": unchecked},
        "losses": ["cross_entropy"],
        "evaluate": {
            "models": ["student"],
            "max_new_tokens": 4,
            "bootstrap": 100,
            "metrics": ["rouge_l"],
        },
    }
    result = pipeline.run(recipe(tmp_path, tiny_model, mixed("all"), **changes))
    rows = read_labels(folder_of(result, "labels"))
    names = {"0 transformers", "1 transformers"}
    assert all(row.teacher in names and row.mean_log_probability is not None for row in rows)
    assert result.report is not None
    shown = json.loads((result.report.parent / "results.json").read_text())["labels"]
    assert sum(shown["answered_by"].values()) == 6
    assert "answered by" in result.report.read_text()


@pytest.mark.parametrize(
    ("route", "label", "words"),
    [
        ("all", {"answers": "gold"}, "score answers that it is given"),
        ("all", {"signal": "live"}, "score answers while the student trains"),
        ({"shares": [1, 1]}, {"signal": "hidden"}, "show its hidden states"),
    ],
)
def test_what_several_teachers_cannot_give_is_refused_before_anything_runs(
    tmp_path: Path, tiny_model: Path, route: Any, label: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        graph_of(recipe(tmp_path, tiny_model, mixed(route), label=label))


def test_a_teacher_that_is_several_is_not_timed(tmp_path: Path, tiny_model: Path) -> None:
    both = {"models": ["teacher", "student"], "metrics": ["rouge_l"]}
    made = recipe(tmp_path, tiny_model, mixed({"shares": [1, 1]}), evaluate=both, benchmark={})
    timed = [stage.title for stage in graph_of(made).stages if stage.kind == "benchmark"]
    assert timed == ["student-seed0"], "left out where nothing is listed"
    listed = recipe(
        tmp_path,
        tiny_model,
        mixed({"shares": [1, 1]}),
        evaluate=both,
        benchmark={"models": ["teacher"]},
    )
    with pytest.raises(UsageError, match="a teacher that is several cannot be timed"):
        graph_of(listed)
