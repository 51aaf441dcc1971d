"""Tables of what stands behind a score: likeness to the teacher, lengths, rankings that turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from limbeck.report.format import (
    MISSING,
    count,
    decimal,
    interval,
    percent,
    score_decimals,
    significant,
)
from limbeck.report.table import Cell, Results, Table

Score = Mapping[str, Any]
FIDELITY_NAMES = {"token_agreement": "tokens alike", "kl_nats": "KL, nats a token"}


def fidelity_table(results: Results) -> Table:
    """How like the teacher every arm is: its texts, and its tokens along the teacher's answers."""
    scores = results["evaluation"]
    texts = {row["arm"]: row["scores"] for row in scores.get("text_agreement") or ()}
    found = scores.get("fidelity") or {"arms": [], "left_out": {}}
    tokens = {row["arm"]: row["scores"] for row in found["arms"]}
    columns = ["arm", "same text", "ROUGE-L with the teacher"]
    columns += list(FIDELITY_NAMES.values()) if tokens else []
    rows: list[tuple[Cell, ...]] = []
    for arm, own in texts.items():
        cells = [Cell(arm), _share(own.get("exact_text")), _plain(own.get("rouge_l"))]
        if tokens:
            measured = tokens.get(arm, {})
            cells += [_share(measured.get("token_agreement")), _small(measured.get("kl_nats"))]
        rows.append(tuple(cells))
    note = (
        f"{count(scores['n'])} samples. It says how like the teacher an arm is, not who is right."
    )
    if tokens:
        note += (
            f" Tokens and KL along the teacher's answers: {count(found['tokens'])} tokens of "
            f"{count(found['samples'])} samples; KL(teacher || arm) on the teacher's "
            f"{found['top_k']} most probable tokens and one bucket for the rest, which held "
            f"{percent(found['tail_mass'], 2)} of its mass: a lower bound."
        )
    note += "".join(f" {arm} is left out: {why}." for arm, why in found["left_out"].items())
    return Table("fidelity", "Like the teacher", tuple(columns), tuple(rows), note)


def fidelity_differences_table(results: Results) -> Table:
    """Which of two arms is nearer to the teacher, paired by sample and seed."""
    found = results["evaluation"].get("fidelity") or {"differences": []}
    rows = tuple(
        (
            Cell(f"{row['a']} \N{MINUS SIGN} {row['b']}"),
            Cell(FIDELITY_NAMES[row["metric"]]),
            _gap(row),
            Cell(count(row["n"])),
        )
        for row in found["differences"]
    )
    caption = "Paired differences in likeness to the teacher"
    return Table("fidelity-differences", caption, ("pair", "measure", "difference", "n"), rows)


def length_matched_table(results: Results) -> Table:
    """The headline metric of every pair of arms where their answers are alike in length."""
    return _matched(results, [results["headline"]], "length-matched", "Where answers are as long")


def all_length_matched_table(results: Results) -> Table:
    """The same by the other metrics."""
    kinds = [
        m["kind"] for m in results["evaluation"]["metrics"] if m["kind"] != results["headline"]
    ]
    caption = "Where answers are as long, by the other metrics"
    return _matched(results, kinds, "length-matched-others", caption)


def as_long_as_references_table(results: Results) -> Table:
    """Every arm on the samples where its answer is as long as the references."""
    scores = results["evaluation"]
    found = scores.get("length_matched") or {"to_references": []}
    rows = []
    for row in found["to_references"]:
        cells = [_plain(row["scores"].get(metric["kind"])) for metric in scores["metrics"]]
        rows.append((Cell(row["arm"]), Cell(count(row["n"])), *cells))
    columns = ("arm", "n", *(metric["name"] for metric in scores["metrics"]))
    note = "Each arm has its own samples here: rows do not compare with one another."
    caption = "Where an answer is as long as its references"
    return Table("as-long-as-references", caption, columns, tuple(rows), note)


def flips_table(results: Results) -> Table:
    """Rankings that depend on the metric or on lengths."""
    rows = tuple(
        (
            Cell(f"{flip['a']}, {flip['b']}"),
            Cell(flip["metric"] or "between metrics"),
            Cell(_sides(flip["above"])),
            Cell(_sides(flip["below"])),
            Cell("yes" if flip["beyond_noise"] else "no"),
        )
        for flip in results["evaluation"].get("flips") or ()
    )
    columns = ("arms", "ranked", "first above by", "first below by", "beyond the noise")
    note = (
        "At least one side has an interval that excludes 0; a flip is beyond the noise where both "
        "sides have one. Brackets: intervals of the paired difference."
    )
    return Table("flips", "Rankings that turn around", columns, rows, note)


def _matched(results: Results, kinds: Sequence[str | None], key: str, caption: str) -> Table:
    scores = results["evaluation"]
    found = scores.get("length_matched") or {"pairs": [], "factor": 1}
    names = {metric["kind"]: metric["name"] for metric in scores["metrics"]}
    whole = {(row["a"], row["b"], row["metric"]): row for row in scores["differences"]}
    rows: list[tuple[Cell, ...]] = []
    for pair in found["pairs"]:
        a, b = pair["a"], pair["b"]
        for row in pair["differences"]:
            if (kind := row["metric"]) in kinds:
                own = [pair["scores"][arm].get(kind) for arm in (a, b)]
                everywhere = whole.get((a, b, kind))
                rows.append(
                    (
                        Cell(f"{a}, {b}"),
                        Cell(names.get(kind, kind)),
                        Cell(f"{count(row['n'])} of {count(scores['n'])}"),
                        *map(_plain, own),
                        _gap(row),
                        _gap(everywhere) if everywhere else Cell(MISSING),
                    )
                )
    note = (
        f"On samples where the longer of the two answers has at most {found['factor']:g} times the "
        "words of the shorter (of several seeds, the mean). Chosen by looking at the answers: it "
        "explains a ranking and does not replace it."
    )
    columns = ("arms", "metric", "samples", "first", "second", "difference", "on all samples")
    return Table(key, caption, columns, tuple(rows), note)


def _sides(side: Mapping[str, Score]) -> str:
    return "; ".join(f"{name} {_text(row['mean'], row, signed=True)}" for name, row in side.items())


def _gap(row: Score) -> Cell:
    places = _places((row["mean"], row["low"], row["high"]))
    return Cell(
        decimal(row["mean"], places, signed=True), interval(row["low"], row["high"], places)
    )


def _plain(score: Score | None) -> Cell:
    if not score:
        return Cell(MISSING)
    places = _places((score["mean"],))
    return Cell(decimal(score["mean"], places), interval(score["low"], score["high"], places))


def _share(score: Score | None) -> Cell:
    if not score:
        return Cell(MISSING)
    bounds = f"[{percent(score['low'])}, {percent(score['high'])}]"
    return Cell(percent(score["mean"]), bounds)


def _small(score: Score | None) -> Cell:
    """A number that may be near 0."""
    if not score:
        return Cell(MISSING)
    bounds = f"[{significant(score['low'])}, {significant(score['high'])}]"
    return Cell(significant(score["mean"]), bounds)


def _text(value: float, row: Score, *, signed: bool) -> str:
    places = _places((value, row["low"], row["high"]))
    return f"{decimal(value, places, signed=signed)} {interval(row['low'], row['high'], places)}"


def _places(values: Iterable[float]) -> int:
    return score_decimals(list(values))
