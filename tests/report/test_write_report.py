from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_stages import write_stages

from limbeck.errors import DataError
from limbeck.report.gallery import evenly_spaced
from limbeck.report.pages import inline_json, markdown_escaped
from limbeck.report.results import thinned
from limbeck.report.write import ReportInputs, write_report

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "quotes \" ' ` & and a | pipe",
    "\u202eright to left\u202c and \u05e9\u05dc\u05d5\u05dd",
    "\u2028 a separator and \x00\x07 control characters",
    "x" * 1_000_000,
]


class Page(HTMLParser):
    """Collects what a browser would execute, load, or show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.policy = ""
        self._open: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.handlers += [name for name in given if name.startswith("on")]
        self.loads += [given[n] for n in ("src", "href", "srcset", "action") if given.get(n)]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag == "script":
            self._open = given

    def handle_endtag(self, tag):
        if tag == "script":
            self._open = None

    def handle_data(self, data):
        if self._open is None:
            self.text.append(data)
        else:
            self.scripts.append((self._open, data))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> ReportInputs:
    return write_stages(tmp_path_factory.mktemp("stages"), samples=48)


@pytest.fixture(scope="module")
def report(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, inputs)
    return folder


def page_of(folder: Path) -> Page:
    return Page((folder / "index.html").read_text())


def gallery_of(folder: Path) -> dict:
    scripts = page_of(folder).scripts
    return json.loads(next(text for given, text in scripts if given.get("id") == "gallery-data"))


def test_the_page_is_self_contained_and_its_policy_names_its_only_script(report):
    page = page_of(report)
    assert all(load.startswith(("#", "data:")) for load in page.loads)
    assert page.handlers == []
    executable = [text for given, text in page.scripts if given.get("type") is None]
    assert len(executable) == 1
    digest = base64.b64encode(hashlib.sha256(executable[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.policy
    assert "default-src 'none'" in page.policy


def test_the_verdict_is_the_same_in_the_three_files_and_in_the_summary(inputs, tmp_path):
    summary = write_report(tmp_path, inputs)
    results = json.loads((tmp_path / "results.json").read_text())
    assert summary["verdict"] == results["verdict"]["sentence"]
    assert summary["verdict"] in (tmp_path / "README.md").read_text().replace("&gt;", ">")
    shown = "".join(page_of(tmp_path).text).replace("\N{NO-BREAK SPACE}", " ")
    assert summary["verdict"] in shown


def test_a_changed_score_changes_every_page(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=12)
    path = inputs.evaluation / "scores.json"
    write_report(tmp_path / "before", inputs)
    scores = json.loads(path.read_text())
    scores["arms"][1]["scores"]["exact_match"]["mean"] = 0.4321
    scores["models"][0]["lengths"]["words_mean"] = 543.2
    path.write_text(json.dumps(scores))
    write_report(tmp_path / "after", inputs)
    for name in ("index.html", "README.md", "results.json"):
        before, after = ((tmp_path / f / name).read_text() for f in ("before", "after"))
        assert "0.432" not in before
        assert "0.432" in after
        assert "543.2" in after
        assert "543.2" not in before


def test_a_changed_benchmark_changes_every_page(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=12, seeds=(0,))
    path = inputs.models[0].benchmark / "results.json"
    found = json.loads(path.read_text())
    for one in found["measurements"]:
        if one["name"] == "latency_ms":
            one["value"] = 987.0
    path.write_text(json.dumps(found))
    write_report(tmp_path / "after", inputs)
    for name in ("index.html", "README.md", "results.json"):
        assert "987" in (tmp_path / "after" / name).read_text()


def test_every_number_of_the_markdown_tables_of_scores_is_in_results_json(report):
    results = json.loads((report / "results.json").read_text())
    text = (report / "README.md").read_text()
    rows = text.split("### Scores\n")[1].split("###")[0].splitlines()
    student = next(row for row in rows if row.startswith("| student"))
    arm = next(arm for arm in results["evaluation"]["arms"] if arm["arm"] == "student")
    for kind, cell in zip(
        ("exact_match", "rouge_l", "element_f1"), student.split("|")[2:], strict=False
    ):
        found = arm["scores"][kind]
        numbers = [float(n) for n in re.findall(r"\d+\.\d+", cell)]
        assert numbers == [round(found[k], 3) for k in ("mean", "low", "high", "sd")]


def test_markdown_tables_have_equal_numbers_of_cells(report):
    lines = (report / "README.md").read_text().splitlines()
    for above, below in itertools.pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.count("|") == below.count("|")


def test_the_same_inputs_give_the_same_bytes(inputs, report, tmp_path):
    write_report(tmp_path, inputs)
    for name in ("index.html", "README.md", "results.json"):
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes()


def test_hostile_texts_are_text_in_every_file(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=12, texts=HOSTILE)
    scores_path = inputs.evaluation / "scores.json"
    scores = json.loads(scores_path.read_text())
    scores["groups"]["title"]["<script>alert(1)</script>|x"] = {}
    scores["warnings"] = ["<b onclick=alert(1)>warned</b>"]
    scores_path.write_text(json.dumps(scores))
    (inputs.data / "quarantine.jsonl").write_text(
        '{"id": "x", "reason": "<img src=x onerror=y>"}\n'
    )
    predictions = inputs.evaluation / "predictions-teacher.jsonl"
    first, *rest = predictions.read_text().splitlines()
    broken = json.dumps({**json.loads(first), "prediction": "a lone \ud800 surrogate"})
    predictions.write_text("\n".join([broken, *rest]) + "\n")
    inputs.recipe["teacher"] = {"prompt": "</pre><script>alert(2)</script>"}
    write_report(tmp_path / "report", inputs)
    page = page_of(tmp_path / "report")
    assert len([text for given, text in page.scripts if given.get("type") is None]) == 1
    assert page.handlers == []
    assert (tmp_path / "report" / "index.html").stat().st_size < 1_000_000
    gallery = gallery_of(tmp_path / "report")
    assert gallery["samples"][0]["references"] == [HOSTILE[0]]
    assert "shortened: 1,000,000 characters" in gallery["samples"][6]["references"][0]
    markdown = (tmp_path / "report" / "README.md").read_text()
    assert "<script" not in markdown
    assert "<img" not in markdown


def test_inline_json_cannot_end_its_element_and_reads_back():
    value = {"a": "</script><!-- \u2028 & ]]>"}
    text = inline_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_markdown_text_stays_in_its_cell():
    escaped = markdown_escaped("a | b\n# c <i> [x](javascript:alert(1)) snake_case `d` _e_")
    assert "\n" not in escaped
    assert re.sub(r"\\\|", "", escaped).count("|") == 0
    assert not re.search(r"(?<!\\)\]\(", escaped)
    assert "<" not in escaped
    assert "snake_case" in escaped


def test_missing_arms_and_benchmarks_leave_a_page_that_says_so(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=8, arms=("student",), seeds=(0,))
    bare = [type(m)(m.id, m.arm, m.seed, m.trainings, None) for m in inputs.models]
    inputs = ReportInputs(**{**vars(inputs), "models": bare, "labels": None, "stages": ()})
    summary = write_report(tmp_path / "report", inputs)
    assert set(summary["outcomes"].values()) == {"not_measured"}
    shown = "".join(page_of(tmp_path / "report").text)
    assert "Nothing was benchmarked" in shown
    assert "one seed only" in shown


def test_the_gallery_holds_answers_scores_and_small_pictures(report):
    gallery = gallery_of(report)
    sample = gallery["samples"][3]
    assert [m["id"] for m in gallery["models"]][:2] == ["teacher", "student-seed0"]
    assert len(sample["answers"]) == len(sample["scores"]) == len(gallery["models"]) == 7
    assert len(sample["scores"][0]) == len(gallery["metrics"])
    assert gallery["images"][sample["images"][0]]["uri"].startswith("data:image/png;base64,")
    assert "title" in gallery["categories"]


def test_large_pictures_become_thumbnails(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=4, image_size=(1200, 900))
    write_report(tmp_path / "report", inputs)
    source = next(iter(gallery_of(tmp_path / "report")["images"].values()))
    assert (source["width"], source["height"]) == (1200, 900)
    from io import BytesIO

    from PIL import Image

    content = base64.b64decode(source["uri"].split(",")[1])
    assert max(Image.open(BytesIO(content)).size) == 320


def test_a_limited_gallery_is_spread_over_the_evaluation(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=40, gallery=10)
    shown = write_report(tmp_path / "report", inputs)["gallery_samples"]
    gallery = gallery_of(tmp_path / "report")
    worst = json.loads((tmp_path / "report" / "results.json").read_text())["failures"]["samples"]
    failing = {int(row["id"].removeprefix("screen-")) for row in worst}
    spread = set(range(0, 40, 4))
    assert failing - spread
    assert [s["index"] for s in gallery["samples"]] == sorted(spread | failing)
    assert gallery["total"] == 40
    text = "".join(page_of(tmp_path / "report").text)
    assert f"{shown} of 40 evaluated samples, evenly spaced over the evaluation" in text
    assert f"but for the {len(failing - spread)} on which the student is furthest behind" in text


def test_many_pictures_are_made_smaller_so_that_the_page_stays_small(tmp_path, monkeypatch):
    from PIL import Image

    inputs = write_stages(tmp_path / "stages", samples=4)
    for path in (inputs.data / "images").iterdir():
        Image.effect_noise((900, 1200), 90).convert("RGB").save(path)

    def sizes(name: str) -> list[int]:
        write_report(tmp_path / name, inputs)
        return [len(image["uri"]) for image in gallery_of(tmp_path / name)["images"].values()]

    plenty = sizes("plenty")
    monkeypatch.setattr("limbeck.report.gallery.IMAGE_BUDGET_BYTES", 4 * 20_000)
    assert min(plenty) > 20_000 >= max(sizes("tight"))


def test_models_answered_on_different_samples_are_refused(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=8)
    path = inputs.evaluation / "predictions-control-seed1.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:] + lines[:1]) + "\n")
    with pytest.raises(DataError, match="control-seed1"):
        write_report(tmp_path / "report", inputs)


@pytest.mark.parametrize("name", ["scores.json", "predictions-teacher.jsonl", "sample_scores.json"])
def test_a_torn_file_is_an_error_that_names_it_and_nothing_is_written(tmp_path, name):
    inputs = write_stages(tmp_path / "stages", samples=8)
    path = inputs.evaluation / name
    path.write_text(path.read_text()[:-30])
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        write_report(tmp_path / "report", inputs)
    assert not (tmp_path / "report").exists()


def test_unequal_steps_and_mixed_precision_are_warned_of(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=8)
    control = next(m for m in inputs.models if m.id == "control-seed0")
    metrics = control.trainings[-1] / "metrics.jsonl"
    metrics.write_text("".join(line + "\n" for line in metrics.read_text().splitlines()[:30]))
    path = inputs.models[0].benchmark / "results.json"
    path.write_text(path.read_text().replace("float32", "int8"))
    write_report(tmp_path / "report", inputs)
    warnings = json.loads((tmp_path / "report" / "results.json").read_text())["warnings"]
    assert any("unequal numbers of steps" in text for text in warnings)
    assert any("int8 (teacher), float32 (here)" in text for text in warnings)


def test_a_busy_machine_and_the_datas_own_warnings_are_passed_on(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=8, seeds=(0,))
    path = inputs.models[1].benchmark / "results.json"
    path.write_text(path.read_text().replace('"other_busy_cores": 0.1', '"other_busy_cores": 1.4'))
    statistics = json.loads((inputs.data / "statistics.json").read_text())
    statistics["warnings"] = ["3 images occur in more than one split"]
    (inputs.data / "statistics.json").write_text(json.dumps(statistics))
    write_report(tmp_path / "report", inputs)
    text = (tmp_path / "report" / "README.md").read_text()
    assert "other work kept 1.4 cores busy while student-seed0 was benchmarked" in text
    assert "3 images occur in more than one split" in text


def test_seeds_that_disagree_are_named_in_the_table(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=8)
    path = inputs.evaluation / "scores.json"
    scores = json.loads(path.read_text())
    for one in scores["differences"]:
        if one["b"] == "control":
            seeds = [{**s, "value": v} for s, v in zip(one["per_seed"], (0.3, -0.1), strict=True)]
            one.update({"mean": 0.1, "low": 0.05, "high": 0.15, "per_seed": seeds})
    path.write_text(json.dumps(scores))
    write_report(tmp_path / "report", inputs)
    shown = "".join(page_of(tmp_path / "report").text)
    assert "only 1 of 2 seeds agree in sign" in shown
    assert "no difference we can tell" in shown


def test_what_the_evaluation_really_writes_can_be_reported(tmp_path):
    from limbeck.data.samples import read_samples
    from limbeck.evaluate.scoring import ModelPredictions, score_models
    from limbeck.recipe.component import build_component
    from limbeck.records import Prediction

    inputs = write_stages(tmp_path / "stages", samples=30)
    models = []
    for model in inputs.models:
        lines = (inputs.evaluation / f"predictions-{model.id}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        answers = [Prediction(r["id"], model.id, r["prediction"], r["new_tokens"]) for r in rows]
        models.append(ModelPredictions(model.id, model.arm, model.seed, answers))
    kinds = ("token_f1", "exact_match", "rouge_l")
    metrics = [build_component("limbeck.metrics", "kind", kind) for kind in kinds]
    scores, per_sample = score_models(models, read_samples(inputs.data), metrics, bootstrap=100)
    (inputs.evaluation / "scores.json").write_text(json.dumps(scores))
    (inputs.evaluation / "sample_scores.json").write_text(json.dumps(per_sample))
    inputs.recipe["report"]["headline"] = "exact_match"
    summary = write_report(tmp_path / "report", inputs)
    assert summary["headline"] == "exact_match"
    assert summary["outcomes"]["baseline"] == "better"
    assert gallery_of(tmp_path / "report")["samples"][0]["scores"][0][1] in (0.0, 1.0)


def test_curves_are_thinned_to_their_limit_with_both_ends():
    rows = [{"step": i} for i in range(12_345)]
    kept = thinned(rows, 500)
    assert len(kept) == 500
    assert (kept[0], kept[-1]) == (rows[0], rows[-1])
    assert thinned(rows[:7], 500) == rows[:7]


def test_evenly_spaced_indices_are_distinct_and_cover_the_whole():
    found = evenly_spaced(2000, 300)
    assert len(set(found)) == 300
    assert found[0] == 0
    assert found[-1] >= 1990
    assert evenly_spaced(3, 0) == []


@pytest.mark.parametrize(
    ("kind", "signals", "cells"),
    [
        (
            "top_k",
            {"bytes_per_token": 178.24, "tail_mass": {"1": 0.0031, "2": 0.0217}},
            ["top k, cached", "178.2", "0.31 % at T = 1, 2.17 % at T = 2", "n/a", "110 ms"],
        ),
        (
            "hidden",
            {"bytes_per_token": 3598.0, "kl_nats": 5.4e-4},
            ["hidden states, cached", "3,598", "none", "0.000540 nats", "110 ms"],
        ),
        ("live", {}, ["live teacher", "n/a", "none", "n/a", "110 ms"]),
    ],
)
def test_the_signal_of_every_trained_model_shows_what_it_keeps_and_costs(
    tmp_path, kind, signals, cells
):
    inputs = write_stages(tmp_path / "stages", samples=8, seeds=(0,))
    labels = inputs.labels / "MANIFEST.json"
    found = json.loads(labels.read_text())
    found["summary"]["signals"] = signals
    labels.write_text(json.dumps(found))
    student = next(m for m in inputs.models if m.arm == "student").trainings[-1] / "MANIFEST.json"
    found = json.loads(student.read_text())
    found["summary"]["signal"] = kind
    student.write_text(json.dumps(found))
    write_report(tmp_path / "report", inputs)
    text = (tmp_path / "report" / "README.md").read_text()
    assert "| " + " | ".join(["student-seed0", *cells]) + " |" in text
    assert "| control-seed0 | none | n/a | n/a | n/a | 110 ms |" in text
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count('id="table-signals"') == 1
    assert "4.0 %" in text.split("waiting for data")[1].split("##")[0]


def test_a_report_without_any_signal_has_no_table_of_signals(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=8, seeds=(0,), arms=("teacher", "control"))
    write_report(tmp_path / "report", inputs)
    assert "table-signals" not in (tmp_path / "report" / "index.html").read_text()
