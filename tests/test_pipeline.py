"""The whole still on a tiny recipe: from data to a report, cached, resumable, honest."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from limbeck.errors import DataError, TeacherError, UsageError
from limbeck.recipe import Recipe, recipe_from
from limbeck.recipe.loading import set_field
from limbeck.stages import Stage
from tiny_models import SIZES

TRAINING = {"steps": 3, "samples_per_step": 4, "checkpoint_every": 2, "precision": "fp32"}
BUILD = SIZES


def tiny_recipe(work: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "tiny",
        "work": str(work),
        "seeds": [0, 1],
        "data": {"source": "screens", "train": 16, "validation": 2, "test": 6},
        "teacher": {
            "backend": "transformers",
            "build": BUILD,
            "fine_tune": {"training": {**TRAINING, "steps": 6}},
        },
        "student": {"build": {**BUILD, "layers": 1}},
        "label": {
            "limit": 8,
            "top_k": 4,
            "answers": "gold",
        },
        "losses": [{"kind": "cross_entropy", "weight": 0.5}, {"kind": "divergence"}],
        "training": TRAINING,
        "evaluate": {
            "batch_size": 4,
            "max_new_tokens": 8,
            "bootstrap": 100,
            "metrics": ["rouge_l", "element_f1"],
        },
        "benchmark": {
            "models": ["student"],
            "batch_sizes": [1],
            "new_tokens": 4,
            "max_new_tokens": 8,
            "samples": 2,
            "repeats": 1,
            "warmup": 1,
        },
    }
    values = copy.deepcopy(values)
    for name, value in changes.items():
        set_field(values, name.replace("__", "."), value, where="test")
    return recipe_from(values)


def kinds(result: pipeline.RunResult, *, cached: bool) -> list[str]:
    return [row["kind"] for row in result.stages if row["cached"] is cached]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pipeline.RunResult]:
    work = tmp_path_factory.mktemp("work")
    return work, pipeline.run(tiny_recipe(work))


def test_one_run_makes_every_stage_and_a_report(
    finished: tuple[Path, pipeline.RunResult],
) -> None:
    work, result = finished
    made = [row["kind"] for row in result.stages]
    assert made.count("student") == 4, "student and control, two seeds each"
    assert made.count("predictions") == 7, "teacher, and three arms with two seeds each"
    assert result.report == work / "runs" / "tiny" / "report" / "index.html"
    assert result.report.is_file()
    assert result.verdict
    results = json.loads((work / "runs" / "tiny" / "results.json").read_text())
    scores = {row["arm"]: row["scores"] for row in results["evaluation"]["arms"]}
    assert set(scores) == {"teacher", "student", "baseline", "control"}
    for arm in scores.values():
        assert arm["rouge_l"]["low"] <= arm["rouge_l"]["mean"] <= arm["rouge_l"]["high"]
        assert arm["rouge_l"]["n"] == 6


def test_floors_add_answers_and_nothing_else(finished: tuple[Path, pipeline.RunResult]) -> None:
    work, before = finished
    models = ["teacher", "student", "teacher_blanked", "student_blanked", "most_frequent"]
    recipe = tiny_recipe(work, name="floors", evaluate__models=models)
    result = pipeline.run(recipe)
    made = [row["title"] for row in result.stages if not row["cached"]]
    assert made == [
        *("teacher_blanked", "student_blanked-seed0", "student_blanked-seed1", "most_frequent"),
        *("scores", "floors"),
    ]
    results = json.loads((work / "runs" / "floors" / "results.json").read_text())
    pairs = [(row["arm"], row["floor"]) for row in results["floors"]]
    assert pairs == [
        *(("teacher", "teacher_blanked"), ("student", "student_blanked")),
        *(("teacher", "most_frequent"), ("student", "most_frequent")),
    ]
    page = (work / "runs" / "floors" / "report" / "index.html").read_text()
    assert "Do they look at the pictures?" in page
    assert results["verdict"]["sentence"].startswith("The student")
    assert before.stages[0]["fingerprint"] == result.stages[0]["fingerprint"]


def test_a_blanked_arm_alone_trains_what_it_blanks(tmp_path: Path) -> None:
    plan = pipeline.build_plan(
        tiny_recipe(tmp_path, seeds=[0], evaluate__models=["student_blanked"], benchmark__models=[])
    )
    kinds = [planned.stage.kind for planned in plan.stages]
    assert kinds.count("student") == 1
    assert kinds.count("predictions") == 1
    assert plan.problems == []


def test_every_stage_on_disk_is_what_product_promises(
    finished: tuple[Path, pipeline.RunResult],
) -> None:
    work, _ = finished
    promised = {
        "data": ("samples.parquet", "statistics.json"),
        "labels": ("labels.parquet", "signals-00000.safetensors"),
        "student": ("checkpoints", "student", "metrics.jsonl"),
        "evaluation": ("predictions-teacher.jsonl", "scores.json"),
        "benchmark": ("results.json",),
    }
    for kind, names in promised.items():
        folders = [f for f in (work / kind).iterdir() if f.is_dir()]
        assert folders
        for folder in folders:
            assert (folder / "MANIFEST.json").is_file()
            assert all((folder / name).exists() for name in names), folder


def test_a_second_run_does_no_work(finished: tuple[Path, pipeline.RunResult]) -> None:
    work, first = finished
    again = pipeline.run(tiny_recipe(work))
    assert kinds(again, cached=False) == []
    assert [r["fingerprint"] for r in again.stages] == [r["fingerprint"] for r in first.stages]


def test_only_what_a_change_touches_is_made_again(
    finished: tuple[Path, pipeline.RunResult],
) -> None:
    work, _ = finished
    plan = pipeline.build_plan(tiny_recipe(work, losses__1__weight=0.2))
    todo = [(p.stage.kind, p.stage.title) for p in plan.stages if not p.done]
    assert ("labels", "train") not in todo, "the teacher is not asked again"
    assert [t for k, t in todo if k == "student"] == ["student-seed0", "student-seed1"]
    assert all("control" not in title for _, title in todo)


def test_settings_that_change_no_output_change_no_fingerprint(tmp_path: Path) -> None:
    def prints(**changes: Any) -> list[str]:
        plan = pipeline.build_plan(tiny_recipe(tmp_path, **changes))
        return [p.stage.fingerprint for p in plan.stages if p.stage.kind != "report"]

    plain = prints()
    assert prints(training__checkpoint_every=1) == plain
    assert prints(training__workers=2) == plain
    assert prints(training__learning_rate=0.5) != plain
    assert prints(student__max_pixels=4096) != plain


def test_planning_touches_nothing(tmp_path: Path) -> None:
    plan = pipeline.build_plan(tiny_recipe(tmp_path / "work"))
    assert plan.problems == []
    assert not any(p.done for p in plan.stages)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("until", "last"), [("data", "data"), ("label", "labels"), ("train", "student")]
)
def test_a_stage_command_makes_what_it_needs_and_no_more(
    tmp_path: Path, until: Any, last: str
) -> None:
    plan = pipeline.build_plan(tiny_recipe(tmp_path), until=until)
    made = [p.stage.kind for p in plan.stages]
    assert made[-1] == last
    assert not {"predictions", "benchmark", "report"} & set(made)


class Killed(BaseException):
    """Stands for a kill: nothing in the product may catch it."""


def kill_in(kind: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the stage's work be cut short the first time, after it has written something."""
    targets = {
        "teacher": ("limbeck.training.loop._Loop._update", 4),
        "labels": ("limbeck.signals.writer.SignalWriter.append", 5),
        "student": ("limbeck.training.loop._Loop._update", 2),
        "predictions": ("limbeck.teachers.transformers._Open._generate", 2),
        "evaluation": ("limbeck.evaluate.stage.write_json", 2),
    }
    import importlib

    path, nth = targets[kind]
    module_name, owner_name, name = _split(path)
    owner: Any = importlib.import_module(module_name)
    owner = getattr(owner, owner_name) if owner_name else owner
    original, calls = getattr(owner, name), 0

    def cut(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, cut)
    return monkeypatch.undo


def _split(path: str) -> tuple[str, str, str]:
    head, _, name = path.rpartition(".")
    module, _, owner = head.rpartition(".")
    return (module, owner, name) if owner.lstrip("_")[:1].isupper() else (head, "", name)


SAME = {
    "teacher": "student/model.safetensors",
    "labels": "labels.parquet",
    "student": "student/model.safetensors",
    "predictions": "predictions.jsonl",
    "evaluation": "scores.json",
}


@pytest.mark.parametrize("kind", list(SAME))
def test_a_killed_stage_goes_on_and_ends_in_the_same_result(
    finished: tuple[Path, pipeline.RunResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    import shutil

    work, result = finished
    copy = tmp_path / "work"
    shutil.copytree(work, copy)
    row = next(r for r in result.stages if r["kind"] == kind)
    shutil.rmtree(copy / kind / row["fingerprint"])
    recipe = tiny_recipe(copy)
    undo = kill_in(kind, monkeypatch)
    with pytest.raises(Killed):
        pipeline.run(recipe, until="evaluate")
    undo()
    assert not (copy / kind / row["fingerprint"]).exists()
    again = pipeline.run(recipe, until="evaluate")
    assert kinds(again, cached=False) == [kind]
    ours = copy / kind / row["fingerprint"]
    theirs = work / kind / row["fingerprint"]
    assert (ours / SAME[kind]).read_bytes() == (theirs / SAME[kind]).read_bytes()
    if kind == "labels":
        assert _signals(ours) == _signals(theirs)


def _signals(folder: Path) -> dict[str, Any]:
    from limbeck.signals.reader import SignalReader

    key = json.loads((folder / "signals.json").read_text())["key"]
    key = {name: value for name, value in key.items() if name not in ("top_k", "temperatures")}
    reader = SignalReader(folder, key)
    rows: dict[str, Any] = {}
    for sample_id in reader.sample_ids:
        answer = reader.answer_ids(sample_id)
        rows[sample_id] = [array.tolist() for array in reader.rows(sample_id, answer)]
    return rows


def test_a_damaged_stage_is_refused_where_it_is_read(
    finished: tuple[Path, pipeline.RunResult], tmp_path: Path
) -> None:
    import shutil

    work, result = finished
    copy = tmp_path / "work"
    shutil.copytree(work, copy)
    labels = next(r["fingerprint"] for r in result.stages if r["kind"] == "labels")
    path = copy / "labels" / labels / "labels.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="has changed") as raised:
        pipeline.run(tiny_recipe(copy, losses__1__weight=0.3), until="train")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"losses__1__temperature": 2.0}, ["temperature 2.0 is not stored", "label.temperatures"]),
        ({"label__signal": "none"}, ["label.signal"]),
        ({"losses__1__target": "gold", "label__answers": "generated"}, ["label.answers"]),
        ({"evaluate__models": ["teacher", "studnt"]}, ["studnt", "student"]),
        (
            {"training__head_gradient_tolerance": 0.003, "student__freeze": ["head"]},
            ["training.head_gradient_tolerance", "not trained", "null"],
        ),
        (
            {"training__head_gradient_tolerance": 0.003, "losses__1__kind": "cross_tokenizer"},
            ["training.head_gradient_tolerance", "CrossTokenizer", "whole logits"],
        ),
        (
            {"arms": {"x": {"evaluate.limit": 3}}, "evaluate__models": ["student", "x"]},
            ["evaluate.limit", "arms.x", "the recipe's own data"],
        ),
        (
            {"arms": {"x": {"label.signal": "none"}}, "evaluate__models": ["student", "x"]},
            ["arms.x.losses.1", "label.signal is none"],
        ),
        (
            {
                "arms": {
                    "x": {
                        "teacher": {
                            "backend": "openai",
                            "base_url": "http://127.0.0.1:9/v1",
                            "model": "m",
                        }
                    }
                },
                "evaluate__models": ["student", "x"],
            },
            ["arms.x.label", "this teacher cannot"],
        ),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UsageError) as raised:
        pipeline.run(tiny_recipe(tmp_path / "work", **changes))
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert not (tmp_path / "work").exists()


def test_models_that_are_not_here_are_all_listed_with_how_to_get_them(tmp_path: Path) -> None:
    changes = {
        "teacher": {"backend": "transformers", "model": "nobody/teacher-7b"},
        "student": {"model": "nobody/student-2b"},
    }
    plan = pipeline.build_plan(tiny_recipe(tmp_path, **changes))
    text = " ".join(map(str, plan.problems))
    assert "nobody/teacher-7b" in text
    assert "nobody/student-2b" in text
    assert "download" in text
    assert [p.stage.kind for p in plan.stages][-1] == "report"


def test_the_plan_shows_what_a_picture_costs(tmp_path: Path, tiny_model: Path) -> None:
    changes = {
        "teacher": {"backend": "transformers", "model": str(tiny_model), "max_pixels": 8192},
        "student__max_pixels": 4096,
    }
    budgets = pipeline.build_plan(tiny_recipe(tmp_path, **changes)).visual_budgets
    assert budgets["teacher"]["visual_tokens_at_most"] == 4, "the largest square below 8 tokens"
    assert budgets["student"] == {
        "min_pixels": None,
        "max_pixels": 4096,
        "visual_tokens_at_most": 4,
    }


def test_live_top_k_and_hidden_give_equal_losses_by_one_word(tmp_path: Path) -> None:
    changes = {
        "label__top_k": 128,
        "training__log_every": 1,
        "seeds": [0],
        "evaluate__models": ["student"],
        "benchmark__models": None,
    }
    losses = []
    for signal in ("live", "top_k", "hidden"):
        recipe = tiny_recipe(tmp_path, **changes, label__signal=signal)
        student = pipeline.run(recipe, until="train").stages[-1]
        assert student["kind"] == "student"
        lines = (Path(student["folder"]) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["losses"] for line in lines])
    assert len(losses[0]) == 3
    for live, top_k, hidden in zip(*losses, strict=True):
        assert top_k == pytest.approx(live, rel=2e-3)
        assert hidden == pytest.approx(live, rel=2e-3)


def test_hidden_takes_any_temperature_and_needs_no_second_labelling(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "label__signal": "hidden",
        "seeds": [0],
        "evaluate__models": ["student"],
        "benchmark__models": None,
    }
    first = pipeline.run(tiny_recipe(tmp_path, **changes), until="train")
    summary = _summary(first, "labels")["signals"]
    assert summary["agreement"] <= 1
    assert 0 < summary["kl_nats"] < 0.005
    assert summary["bytes_per_token"] > 32
    again = pipeline.run(
        tiny_recipe(tmp_path, **changes, losses__1__temperature=2.7), until="train"
    )
    assert kinds(again, cached=False) == ["student"]


def test_a_killed_labelling_of_hidden_states_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import limbeck.labelling

    monkeypatch.setattr(limbeck.labelling, "BATCHES_BETWEEN_SAVES", 1)
    folders = []
    for name in ("whole", "killed"):
        recipe = tiny_recipe(
            tmp_path / name, label__signal="hidden", label__batch_size=2, label__limit=8
        )
        if name == "killed":
            undo = kill_in("labels", monkeypatch)
            with pytest.raises(Killed):
                pipeline.run(recipe, until="label")
            undo()
            monkeypatch.setattr(limbeck.labelling, "BATCHES_BETWEEN_SAVES", 1)
        stage = pipeline.run(recipe, until="label").stages[-1]
        folders.append(Path(stage["folder"]))
    names = sorted(path.name for path in folders[0].glob("*.*") if path.name != "MANIFEST.json")
    assert "head.safetensors" in names
    assert "signals-00003.safetensors" in names
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def _summary(result: pipeline.RunResult, kind: str) -> Any:
    folder = next(Path(row["folder"]) for row in result.stages if row["kind"] == kind)
    return json.loads((folder / "MANIFEST.json").read_text())["summary"]


def test_a_stage_object_says_what_it_reads(tmp_path: Path) -> None:
    plan = pipeline.build_plan(tiny_recipe(tmp_path))
    by_kind: dict[str, Stage] = {p.stage.kind: p.stage for p in plan.stages}
    assert set(by_kind["student"].reads) == {"data", "labels", "initial"}
    assert "teacher" in by_kind["labels"].reads


def test_labels_can_be_looked_at_when_they_are_done_and_before(
    finished: tuple[Path, pipeline.RunResult], tmp_path: Path
) -> None:
    from limbeck.labels import look_at_labels

    work, result = finished
    found = look_at_labels(tiny_recipe(work))
    assert found["finished"]
    assert (found["labels"], found["fit"]) == (8, 8)
    assert found["page"] == str(work / "runs" / "tiny" / "labels.html")
    assert found["folder"] == next(r["folder"] for r in result.stages if r["kind"] == "labels")
    page = tmp_path / "other" / "page.html"
    assert look_at_labels(tiny_recipe(work), page)["page"] == str(page)
    assert "tiny: labels" in page.read_text()
    with pytest.raises(DataError, match="there are no labels yet"):
        look_at_labels(tiny_recipe(tmp_path))
    stopped = tiny_recipe(work, label__checks={"max_characters": 1})
    with pytest.raises(TeacherError, match="unfit"):
        pipeline.run(stopped, until="label")
    found = look_at_labels(stopped, page)
    assert not found["finished"]
    assert (found["labels"], found["unfit"]) == (8, 8)
    assert found["reasons"]["longer than 1 characters"] == 8
