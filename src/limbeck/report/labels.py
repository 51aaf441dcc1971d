"""The teacher's answers to look at: counts, quantiles, and a page of them with their pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from limbeck.data.statistics import distribution
from limbeck.errors import DataError
from limbeck.records import Label, Sample
from limbeck.report.fact_tables import distributions_table, facts_table
from limbeck.report.gallery import (
    MAX_CHARACTERS,
    MAX_IMAGES,
    MAX_REFERENCES,
    categories,
    evenly_spaced,
    metadata_of,
    prompt_of,
    thumbnail,
)
from limbeck.report.pages import environment, inline_json, policy_for, script_of, text_of
from limbeck.report.stage_files import clean
from limbeck.report.table import Cell, Table, shortened

MAX_SHOWN = 400
"""Answers on a page; each picture of theirs is embedded once."""

EXAMPLES = 3
"""Answers of each kind that the terminal shows."""

MEASURES = {
    "mean_log_probability": "mean log-probability",
    "agreement": "agreement",
    "tokens": "tokens",
    "characters": "characters",
}
"""What answers are sorted by, where it is known."""


def summarise_labels(labels: Sequence[Label], samples: Sequence[Sample]) -> dict[str, Any]:
    """Counts, quantiles and a few examples, as JSON-able values.

    Raises:
        DataError: a label belongs to no sample.
    """
    splits = {sample.id: sample.split for sample in samples}
    if missing := [row.sample_id for row in labels if row.sample_id not in splits]:
        raise DataError(f"label of {missing[0]!r} belongs to no sample", where="labels")
    counted = Counter((splits[row.sample_id], row.valid) for row in labels)
    fit = [row for row in labels if row.valid]
    unfit = [row for row in labels if not row.valid]
    return {
        "labels": len(labels),
        "fit": len(fit),
        "unfit": len(unfit),
        "gold": sum(row.gold for row in labels),
        "splits": {
            split: {
                "labels": counted[split, True] + counted[split, False],
                "unfit": counted[split, False],
            }
            for split in dict.fromkeys(splits[row.sample_id] for row in labels)
        },
        "reasons": dict(Counter(reason for row in unfit for reason in row.reasons).most_common()),
        "of_fit_answers": {
            name: distribution(
                [value for row in fit if (value := _measures(row)[name]) is not None]
            )
            for name in MEASURES
        },
        "examples": {
            "fit": [_example(row) for row in _some(fit, EXAMPLES)],
            "unfit": [_example(row) for row in _one_of_each_reason(unfit)],
        },
    }


def describe_labels(found: Mapping[str, Any]) -> str:
    """The same as lines of text, safe to print whatever the answers hold."""
    total = found["labels"] or 1
    lines = [
        f"{found['labels']:,} labels: {found['fit']:,} fit, {found['unfit']:,} unfit "
        f"({found['unfit'] / total:.1%}); {found['gold']:,} are gold answers"
    ]
    for split, counts in found["splits"].items():
        lines.append(f"  {split:<20}{counts['labels']:>9,}  {counts['unfit']:,} unfit")
    lines += [f"  {count:>9,}  {_printable(reason)}" for reason, count in found["reasons"].items()]
    lines.append(f"  {'of fit answers':<22}{'p5':>9}{'median':>9}{'p95':>9}{'mean':>9}{'n':>8}")
    for name, spread in found["of_fit_answers"].items():
        if spread is not None:
            quantiles = (spread["quantiles"][q] for q in ("0.05", "0.5", "0.95"))
            numbers = "".join(f"{value:>9.4g}" for value in (*quantiles, spread["mean"]))
            lines.append(f"  {MEASURES[name]:<22}{numbers}{spread['n']:>8,}")
    for kind, examples in found["examples"].items():
        for example in examples:
            why = f" [{'; '.join(example['reasons'])}]" if example["reasons"] else ""
            text = shortened(" ".join(example["text"].split()), 160)
            lines.append(f"  {kind}  {_printable(example['id'] + why + ': ' + text)}")
    return "\n".join(lines)


def labels_page(
    found: Mapping[str, Any],
    labels: Sequence[Label],
    samples: Sequence[Sample],
    data: Path,
    *,
    name: str,
    limit: int = MAX_SHOWN,
) -> str:
    """One self-contained page: tables, and a gallery to filter, search and sort.

    Args:
        found: what `summarise_labels` gave.
        labels: all of them.
        samples: theirs.
        data: the data stage's folder, with the pictures.
        name: of the run.
        limit: labels shown; half of the places are for unfit ones, if there are so many.

    Raises:
        DataError: a picture cannot be opened.
    """
    by_id = {sample.id: sample for sample in samples}
    shown = _shown(labels, limit)
    images: dict[str, dict[str, Any]] = {}
    for row in shown:
        for image in by_id[row.sample_id].images[:MAX_IMAGES]:
            if image.sha256 not in images:
                images[image.sha256] = thumbnail(data / image.path)
    known = [key for key in MEASURES if _known(labels, key)]
    entries = [_entry(by_id[row.sample_id], row, i, known) for i, row in enumerate(shown)]
    gallery = clean(
        {
            "total": len(labels),
            "metrics": [{"kind": key, "name": MEASURES[key], "higher": True} for key in known],
            "headline": known[0],
            "models": [{"id": "answer", "arm": "answer", "seed": None}],
            "categories": categories([entry["metadata"] for entry in entries]),
            "samples": entries,
            "images": images,
            "colours": {"answer": "arm-teacher"},
        }
    )
    script = script_of("page.js", "gallery.js")
    spreads = {MEASURES[k]: v for k, v in found["of_fit_answers"].items() if v is not None}
    return (
        environment(html=True)
        .get_template("labels.html.jinja")
        .render(
            name=name,
            found=found,
            shown=len(shown),
            policy=policy_for(script),
            style=Markup(text_of("page.css")),
            script=Markup(script),
            gallery_json=Markup(inline_json(gallery)),
            colours={},
            splits=_splits_table(found["splits"]),
            reasons=facts_table("quarantine", "Why answers are unfit", found["reasons"], "reason"),
            distributions=distributions_table(spreads),
        )
    )


def _shown(labels: Sequence[Label], limit: int) -> list[Label]:
    """All of them or `limit`, evenly spaced, in their order; unfit ones get half of the places."""
    fit = [i for i, row in enumerate(labels) if row.valid]
    unfit = [i for i, row in enumerate(labels) if not row.valid]
    places = min(len(unfit), max(limit // 2, limit - len(fit)))
    chosen = [unfit[i] for i in evenly_spaced(len(unfit), places)]
    chosen += [fit[i] for i in evenly_spaced(len(fit), limit - places)]
    return [labels[i] for i in sorted(chosen)]


def _entry(sample: Sample, row: Label, index: int, known: Sequence[str]) -> dict[str, Any]:
    own = {
        "split": sample.split,
        "label": "fit" if row.valid else "unfit",
        **({"reason": row.reasons[0]} if row.reasons else {}),
        **({"other reasons": "; ".join(row.reasons[1:])} if len(row.reasons) > 1 else {}),
        "answer": "first reference" if row.gold else "teacher's",
    }
    others = {k: v for k, v in metadata_of(sample.metadata).items() if k not in own}
    measured = _measures(row)
    return {
        "id": shortened(sample.id, 120),
        "index": index,
        "images": [image.sha256 for image in sample.images[:MAX_IMAGES]],
        "hidden_images": max(0, len(sample.images) - MAX_IMAGES),
        "prompt": shortened(prompt_of(sample), MAX_CHARACTERS),
        "references": [shortened(t, MAX_CHARACTERS) for t in sample.references[:MAX_REFERENCES]],
        "hidden_references": max(0, len(sample.references) - MAX_REFERENCES),
        "metadata": {**own, **others},
        "answers": [{"text": shortened(row.text, MAX_CHARACTERS), "finished": row.finished}],
        "scores": [[_rounded(measured[key]) for key in known]],
    }


def _measures(row: Label) -> dict[str, float | None]:
    return {
        "mean_log_probability": row.mean_log_probability,
        "agreement": row.agreement,
        "tokens": row.tokens,
        "characters": len(row.text),
    }


def _known(rows: Sequence[Label], name: str) -> list[float]:
    return [value for row in rows if (value := _measures(row)[name]) is not None]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _splits_table(splits: Mapping[str, Mapping[str, int]]) -> Table:
    rows = tuple(
        (Cell(split), Cell(f"{counts['labels']:,}"), Cell(f"{counts['unfit']:,}"))
        for split, counts in splits.items()
    )
    return Table("labels", "Labels", ("split", "labels", "unfit"), rows)


def _some(rows: Sequence[Label], count: int) -> list[Label]:
    return [rows[i] for i in evenly_spaced(len(rows), count)]


def _one_of_each_reason(rows: Iterable[Label]) -> list[Label]:
    first: dict[str, Label] = {}
    for row in rows:
        first.setdefault(row.reasons[0] if row.reasons else "", row)
    return list(first.values())[: 2 * EXAMPLES]


def _example(row: Label) -> dict[str, Any]:
    return clean({"id": row.sample_id, "text": row.text, "reasons": list(row.reasons)})


def _printable(text: str) -> str:
    """Without characters that move a terminal's cursor or colour its lines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
