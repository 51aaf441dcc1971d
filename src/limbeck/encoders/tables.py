"""The study's tables: the published shape for each teacher and loss, and every score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from limbeck.encoders.recipe import CROSS_ENTROPY
from limbeck.report.format import data_size, decimal, interval
from limbeck.report.table import Cell, Table

Row = Mapping[str, Any]
PUBLISHED_MIB = {
    "projection": (1.00, 0.75),
    "bottleneck": (0.75, 0.50),
    "attention": (9.02, 9.76),
    "cbam": (1.25, None),
    "resnet": (43.39, 43.03),
    "densenet": (27.53, 27.16),
}
"""With 512-d features and two towers, and with 768-d and one; None: not published."""

WORDS = {
    "head": "accuracy (own classifier or zero-shot)",
    "knn": "accuracy (kNN)",
    "probe": "accuracy (linear probe)",
    "image_to_text_r1": "R@1, image to text",
    "image_to_text_r5": "R@5, image to text",
    "image_to_text_r10": "R@10, image to text",
    "text_to_image_r1": "R@1, text to image",
    "text_to_image_r5": "R@5, text to image",
    "text_to_image_r10": "R@10, text to image",
}


def tables_of(results: Mapping[str, Any]) -> list[Table]:
    """All tables, from results.json."""
    return [*_published_shape(results), *_all_scores(results), *_costs(results)]


def headline(scores: Row, trains_head: bool) -> str:
    """The score of the published shape: R@1, or accuracy by what the arm trains."""
    if "image_to_text_r1" in scores:
        return "image_to_text_r1"
    return "head" if trains_head else "knn"


def _published_shape(results: Mapping[str, Any]) -> Iterator[Table]:
    epochs = results["epochs"]
    groups = dict.fromkeys((c["dataset"], c["teacher"], c["arm"]) for c in results["cells"])
    for number, (dataset, teacher, arm) in enumerate(groups):
        own = [
            c
            for c in results["cells"]
            if (c["dataset"], c["teacher"], c["arm"]) == (dataset, teacher, arm)
        ]
        name = own[0]["headline"]
        columns = ["student", "towers, published", "towers", "deployed"]
        for epoch in epochs:
            columns += [f"{WORDS[name]}, epoch {epoch}", f"s an epoch, up to {epoch}"]
        rows: list[tuple[Cell, ...]] = []
        for cell in own:
            published = PUBLISHED_MIB.get(cell["kind"], (None, None))
            known = published[0 if cell["reads_text"] else 1]
            cost = cell["cost"]
            deployed = None if cost is None else cost["deployed_bytes"]
            row = [
                Cell(cell["student"], cell["placed"]),
                Cell("not published" if known is None else f"{known:.2f} MiB"),
                Cell(f"{cell['towers_mib']:.2f} MiB"),
                Cell(data_size(deployed)),
            ]
            for epoch in epochs:
                found = cell["epochs"][str(epoch)]
                row += [_score(found["scores"][name]), Cell(decimal(found["seconds"], 2))]
            rows.append(tuple(row))
        yield Table(
            f"published-{number}",
            f"{dataset}, teacher {teacher}, {arm}",
            tuple(columns),
            tuple(rows),
            "Deployed: with the teacher's picture side where it is required. "
            "Published sizes are of 512-d (two towers) and 768-d (one tower) teachers.",
        )


def _all_scores(results: Mapping[str, Any]) -> Iterator[Table]:
    last = str(results["epochs"][-1])
    settings = dict.fromkeys((c["dataset"], c["teacher"]) for c in results["cells"])
    for number, (dataset, teacher) in enumerate(settings):
        cells = [c for c in results["cells"] if (c["dataset"], c["teacher"]) == (dataset, teacher)]
        names = list(cells[0]["epochs"][last]["scores"])
        own = results["teachers"][f"{dataset}/{teacher}"]
        rows = [
            (
                Cell(teacher, "the teacher itself"),
                Cell("—"),
                *(_score(own[name]) if name in own else Cell("—") for name in names),
                Cell("—"),
            )
        ]
        for cell in cells:
            found = cell["epochs"][last]["scores"]
            scored = tuple(_score(found[name]) for name in names)
            gain = cell["against_cross_entropy"]
            told = "—" if gain is None else decimal(gain["difference"], signed=True)
            span = "" if gain is None else interval(gain["low"], gain["high"])
            heading = Cell(cell["student"], cell["placed"])
            rows.append((heading, Cell(cell["arm"]), *scored, Cell(told, span)))
        columns = ("model", "arm", *(WORDS[name] for name in names), f"against {CROSS_ENTROPY}")
        tested = next(iter(own.values()))["n"]
        note = (
            f"After epoch {last}: mean over {len(results['seeds'])} seeds ± their spread, "
            f"bootstrap interval over the n = {tested} test samples. The last "
            "column is the paired difference of the score shown above; an interval over 0 has no "
            "winner."
        )
        yield Table(f"scores-{number}", f"{dataset}, teacher {teacher}", columns, tuple(rows), note)


def _costs(results: Mapping[str, Any]) -> Iterator[Table]:
    found = {
        (c["dataset"], c["teacher"], c["student"]): c
        for c in results["cells"]
        if c["cost"] is not None
    }
    rows: list[tuple[Cell, ...]] = []
    for (dataset, teacher, student), cell in found.items():
        cost = cell["cost"]
        times = cost["latency_ms"]
        rows.append(
            (
                Cell(student, cell["placed"]),
                Cell(f"{dataset}, {teacher}"),
                Cell(data_size(cost["deployed_bytes"])),
                Cell(f"{times['median']:.2f} ms", f"{times['p5']:.2f} to {times['p95']:.2f}"),
                Cell(data_size(cost["resident_bytes"])),
            )
        )
    if rows:
        columns = ("student", "with", "deployed, fp32", "latency, one picture", "memory")
        first = next(iter(found.values()))["cost"]
        note = (
            f"On {first['device']}, {first['threads']} threads, {first['timed']} pictures timed: "
            "median, and the 5th to the 95th percentile. Memory: of the whole process after "
            "the last picture, Python and PyTorch included."
        )
        yield Table("costs", "What is deployed costs", columns, tuple(rows), note)


def _score(row: Row) -> Cell:
    spread = "" if row["spread"] is None else f" ± {decimal(row['spread'])}"
    return Cell(f"{decimal(row['value'])}{spread}", interval(row["low"], row["high"]))
