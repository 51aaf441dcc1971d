"""Tables that explain scores: likeness to the teacher, and scores where lengths are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.format import MISSING, count, decimal, interval, percent, score_decimals
from limbeck.report.table import Cell, Results, Table
from limbeck.report.verdict import outcome

DIGITS = 4


def fidelity_table(results: Results) -> Table:
    """How far each arm follows the teacher along the teacher's own answers."""
    found = results["evaluation"].get("fidelity") or {"arms": [], "left_out": {}}
    rows = [
        (
            Cell(row["arm"]),
            _value(row["scores"].get("token_agreement"), DIGITS),
            _value(row["scores"].get("kl_nats"), DIGITS),
        )
        for row in found["arms"]
    ]
    rows += [(Cell(arm), Cell(MISSING, why), Cell("")) for arm, why in found["left_out"].items()]
    note = ""
    if found["arms"]:
        note = (
            f"Along the teacher's answers to {count(found['samples'])} samples,"
            f" {count(found['tokens'])} tokens, each given those before it: the share at which the"
            " arm's likeliest token is the teacher's, and KL(teacher || arm) in nats a token,"
            f" over the teacher's {found['top_k']} likeliest tokens and one bucket for the rest"
            f" ({percent(found['tail_mass'], 2)} of its mass). Brackets: interval over samples. The"
            f" teacher agrees with what it wrote at {percent(found['teacher_agreement'])} of"
            " tokens. Likeness says nothing of who is right."
        )
    columns = ("arm", "token agreement ↑", "KL ↓")
    return Table("fidelity", "Fidelity to the teacher", columns, tuple(rows), note)


def text_agreement_table(results: Results) -> Table:
    """How like the teacher's texts the answers of the other arms are."""
    rows = [
        (
            Cell(row["arm"]),
            _value(row["scores"].get("exact_text"), 3),
            _value(row["scores"].get("rouge_l"), 3),
        )
        for row in results["evaluation"].get("text_agreement") or ()
    ]
    note = (
        "The share of answers that are the teacher's to the letter, and ROUGE-L with the teacher's"
        " answer as the only reference. Likeness says nothing of who is right."
    )
    columns = ("arm", "same text ↑", "ROUGE-L to the teacher's ↑")
    return Table("text-agreement", "Likeness to the teacher's texts", columns, tuple(rows), note)


def matched_pairs_table(results: Results) -> Table:
    """Two arms on the samples on which their answers have like lengths."""
    scores = results["evaluation"]
    matched = scores.get("length_matched") or {"pairs": [], "factor": 0}
    metrics = {metric["kind"]: metric for metric in scores["metrics"]}
    rows: list[tuple[Cell, ...]] = []
    for pair in matched["pairs"]:
        if "student" not in (pair["a"], pair["b"]):
            continue
        for apart in pair["differences"]:
            metric = metrics[apart["metric"]]
            judged, why = outcome(apart, metric["higher_is_better"])
            one, other = (pair["scores"][arm][apart["metric"]]["mean"] for arm in _ends(pair))
            digits = score_decimals([one, other, apart["low"], apart["high"]])
            rows.append(
                (
                    Cell(f"{pair['a']} − {pair['b']}"),
                    Cell(metric["name"]),
                    Cell(f"{count(apart['n'])} of {count(scores['n'])}"),
                    Cell(f"{decimal(one, digits)} / {decimal(other, digits)}"),
                    Cell(
                        decimal(apart["mean"], digits, signed=True),
                        interval(apart["low"], apart["high"], digits),
                    ),
                    Cell("no difference we can tell" if judged == "tie" else judged, why, judged),
                )
            )
    columns = ("pair", "metric", "alike in length", "scores", "difference", "first against second")
    note = (
        "Samples on which the longer answer of the two has at most"
        f" {matched['factor']} times the words of the shorter: what is left of a difference when"
        " length cannot explain it. They are chosen by looking at the answers, so these scores"
        " explain the others and do not replace them."
    )
    return Table("length-matched", "Where lengths are alike", columns, tuple(rows), note)


def group_means_tables(results: Results) -> list[Table]:
    """The plain mean over groups, so that a rare type counts as much as a frequent one."""
    scores = results["evaluation"]
    tables: list[Table] = []
    for key, by_arm in (scores.get("group_means") or {}).items():
        name = key.replace("_", " ")
        rows = [
            (
                Cell(arm),
                *(_mean(found.get(metric["kind"])) for metric in scores["metrics"]),
            )
            for arm, found in by_arm.items()
        ]
        columns = ("arm", *(metric["name"] for metric in scores["metrics"]))
        note = "Each group counts alike; its interval draws samples within every group."
        caption = f"Mean over {name} groups"
        tables.append(Table(f"group-means-{key}", caption, columns, tuple(rows), note))
    return tables


def _ends(pair: Mapping[str, Any]) -> tuple[str, str]:
    return pair["a"], pair["b"]


def _mean(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell(MISSING)
    digits = score_decimals([found["value"]])
    return Cell(decimal(found["value"], digits), interval(found["low"], found["high"], digits))


def _value(found: Mapping[str, Any] | None, digits: int) -> Cell:
    if found is None:
        return Cell(MISSING)
    return Cell(decimal(found["mean"], digits), interval(found["low"], found["high"], digits))
