"""Layers that speak: how well each does, and which learnt from which while training went on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from limbeck.report.format import MISSING, count, decimal, interval, percent
from limbeck.report.plots import WIDTH, svg
from limbeck.report.table import Cell, Results, Table

PARTS = 4
"""Pieces into which a training is cut to show how its matches change."""
CELL_HEIGHT, TOP, LEFT, GAP = 26, 34, 34, 10


def over_time(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The matches of each quarter of a training, from rows that count them all so far.

    Args:
        rows: of metrics.jsonl; those without matches (another phase's) are left out.

    Returns:
        For each quarter its last step and the counts [student's layers][teacher's layers].
    """
    found = [row for row in rows if row.get("matches")]
    ends = sorted({round(len(found) * (part + 1) / PARTS) - 1 for part in range(PARTS)} - {-1})
    before: Any = None
    quarters: list[dict[str, Any]] = []
    for end in ends:
        counts = found[end]["matches"]
        own = counts if before is None else _minus(counts, before)
        quarters.append({"until_step": found[end]["step"], "counts": own})
        before = counts
    return quarters


def _minus(counts: Any, before: Any) -> list[list[float]]:
    return [
        [now - then for now, then in zip(own, earlier, strict=True)]
        for own, earlier in zip(counts, before, strict=True)
    ]


def match_plots(results: Results) -> list[tuple[str, Markup]]:
    """For each model whose layers spoke: a map of matches a quarter, dark where they are many."""
    return [
        (model, _maps(model, one["matches_over_time"]))
        for model, one in results["training"].items()
        if one.get("matches_over_time")
    ]


def _maps(model: str, quarters: Sequence[Mapping[str, Any]]) -> Markup:
    first = quarters[0]["counts"]
    own, theirs = len(first), len(first[0])
    width = (WIDTH - LEFT - GAP * PARTS) / PARTS
    height = TOP + CELL_HEIGHT * own + 24
    drawn: list[Markup] = []
    told: list[str] = []
    text = Markup('<text class="tick" text-anchor="middle" x="{:g}" y="{:g}">{}</text>')
    cell = Markup(
        '<g class="mark"><rect class="bin" x="{:g}" y="{:g}" width="{:g}" height="{:g}"'
        ' fill-opacity="{:.2f}"><title>{}</title></rect></g>'
    )
    for layer in range(own):
        y = TOP + CELL_HEIGHT * (layer + 0.5) + 4
        drawn.append(text.format(LEFT / 2, y, str(layer + 1)))
    for part, quarter in enumerate(quarters):
        left = LEFT + part * (width + GAP)
        drawn.append(text.format(left + width / 2, 12, f"to step {quarter['until_step']}"))
        for at in range(theirs):
            x = left + width * (at + 0.5) / theirs
            drawn.append(text.format(x, TOP - 6, str(at + 1)))
        for layer, counts in enumerate(quarter["counts"]):
            total = sum(counts)
            likeliest = max(range(theirs), key=lambda at: counts[at])
            told.append(
                f"to step {quarter['until_step']} layer {layer + 1} mostly from {likeliest + 1}"
            )
            for at, number in enumerate(counts):
                share = number / total if total else 0.0
                words = (
                    f"student's layer {layer + 1}, teacher's {at + 1}: {percent(share, 0)}"
                    f" of {count(total)}, to step {quarter['until_step']}"
                )
                place = (left + width * at / theirs, TOP + CELL_HEIGHT * layer)
                size = (width / theirs - 1, CELL_HEIGHT - 1)
                drawn.append(cell.format(*place, *size, 0.06 + 0.94 * share, words))
    foot = "rows: student's layers; columns: teacher's layers"
    drawn.append(text.format(WIDTH / 2, height - 6, foot))
    return svg(Markup("").join(drawn), f"Matches of {model}", "; ".join(told), height)


def verbalisers_table(results: Results) -> Table:
    """How well each target layer says the answer, against the logit lens on the same tokens."""
    rows: list[tuple[Cell, ...]] = []
    for model, facts in results["verbalisers"].items():
        for number, layer in enumerate(facts["layers"]):
            by = facts.get("lowered_by", [{}] * len(facts["layers"]))[number]
            bounds = interval(by["low"], by["high"]) if by else ""
            rows.append(
                (
                    Cell(model),
                    Cell(str(layer + 1)),
                    Cell(decimal(facts["logit_lens_losses"][number])),
                    Cell(decimal(facts["losses"][number])),
                    Cell(decimal(by["value"]) if by else MISSING, bounds),
                    Cell(decimal(facts["own_loss"])),
                    Cell(f"{count(facts['held_out_tokens'])} / {facts['held_out_samples']}"),
                )
            )
    columns = (
        *("verbalisers of", "layer", "logit lens", "verbaliser", "lower by"),
        *("the model itself", "tokens / samples"),
    )
    note = (
        "Nats a token of the answer on labelled samples that no verbaliser was trained on;"
        " brackets: 95 % interval over samples (normal approximation). The logit lens is the"
        " model's own last normalisation and head on the layer, without any training."
    )
    return Table("verbalisers", "How well layers speak", columns, tuple(rows), note)
