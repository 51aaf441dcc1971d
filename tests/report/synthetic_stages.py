"""Stage folders as the other stages write them, with made-up numbers, for the report's tests."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from PIL import Image, ImageDraw

from limbeck.data.samples import write_samples
from limbeck.data.statistics import describe
from limbeck.records import ImageFile, Sample
from limbeck.report.write import ReportInputs, ReportModel

METRICS = [
    {"kind": "exact_match", "name": "exact match", "higher_is_better": True, "signature": "strip"},
    {"kind": "rouge_l", "name": "ROUGE-L", "higher_is_better": True, "signature": "beta 1.2"},
    {"kind": "element_f1", "name": "element F1", "higher_is_better": True, "signature": ""},
]
SKILL = {"teacher": 0.98, "student": 0.90, "baseline": 0.02, "control": 0.82}
TITLES = ["settings", "inbox", "profile", "checkout", "gallery", "search"]
ELEMENTS = [
    "button save",
    "button cancel",
    "switch wifi",
    "field name",
    "slider volume",
    "icon back",
]
COLOURS = ["#f7f3ea", "#eaf2f7", "#f3eaf7", "#eaf7ee"]


def write_stages(
    root: Path,
    *,
    samples: int = 256,
    seeds: tuple[int, ...] = (0, 1),
    arms: tuple[str, ...] = ("teacher", "student", "baseline", "control"),
    texts: list[str] | None = None,
    image_size: tuple[int, int] = (96, 128),
    steps: int = 600,
    gallery: int = 200,
) -> ReportInputs:
    """Write every folder below `root`; `texts` replaces the first samples' captions."""
    chance = random.Random(7)
    made = _write_data(root / "data", samples, texts or [], image_size, chance)
    models = [
        ReportModel(arm if seed is None else f"{arm}-seed{seed}", arm, seed)
        for arm in arms
        for seed in ((None,) if arm == "teacher" else seeds)
    ]
    _write_evaluation(root / "evaluation", models, made, arms, seeds, chance)
    full = []
    for model in models:
        training = root / "student" / model.id if model.arm in ("student", "control") else None
        if training:
            _write_training(training, model, steps, chance)
        benchmark = root / "benchmark" / model.id
        _write_benchmark(benchmark, model.arm)
        full.append(
            ReportModel(model.id, model.arm, model.seed, [training] if training else [], benchmark)
        )
    labels = {
        "labels": 300,
        "valid": 297,
        "unfit_reasons": {"repeats itself": 3},
        "answer_tokens": 4210,
        "signals": {
            "bytes_per_token": 178.2,
            "tail_mass": {"1": 0.0031, "2": 0.0217},
            "agreement": 0.9991,
        },
    }
    _json(root / "labels" / "MANIFEST.json", {"summary": labels})
    recipe = {
        "name": "synthetic",
        "work": str(root),
        "data": {"source": "screens", "samples": samples},
        "evaluate": {"split": "test", "metrics": [m["kind"] for m in METRICS]},
        "report": {"headline": None, "gallery": gallery},
    }
    stages = [
        {
            "kind": kind,
            "title": title,
            "fingerprint": hashlib.sha256(kind.encode()).hexdigest()[:16],
        }
        for kind, title in (
            ("data", "screens"),
            ("labels", "teacher"),
            ("student", "student-seed0"),
        )
    ]
    return ReportInputs(
        name="synthetic",
        recipe=recipe,
        data=root / "data",
        labels=root / "labels",
        evaluation=root / "evaluation",
        models=full,
        stages=stages,
    )


def _write_data(
    folder: Path, number: int, texts: list[str], size: tuple[int, int], chance: random.Random
) -> list[Sample]:
    (folder / "images").mkdir(parents=True)
    made = []
    for index in range(number):
        elements = chance.sample(ELEMENTS, 3)
        title = chance.choice(TITLES)
        path = folder / "images" / f"{index}.png"
        image = Image.new("RGB", size, chance.choice(COLOURS))
        draw = ImageDraw.Draw(image)
        draw.text((4, 3), title, fill="#222222")
        for row, element in enumerate(elements):
            top = 28 + 32 * row
            draw.rectangle((4, top, size[0] - 5, top + 22), outline="#555555", fill="#ffffff")
            draw.text((8, top + 5), element, fill="#111111")
        image.save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        caption = f"A {title} screen. {', '.join(elements)}."
        made.append(
            Sample(
                id=f"screen-{index:05d}",
                split="test",
                messages=(
                    {
                        "role": "user",
                        "content": [
                            {"type": "image"},
                            {
                                "type": "text",
                                "text": "Describe the screen, then list its elements.",
                            },
                        ],
                    },
                ),
                images=(ImageFile(f"images/{index}.png", digest, *size),),
                references=(texts[index] if index < len(texts) else caption,),
                metadata={"title": title, "elements": elements, "colour": chance.choice("abcd")},
            )
        )
    write_samples(folder, made)
    quarantine = [{"id": "x", "where": "a.jsonl:3", "reason": "image is truncated"}] * 2
    _json(folder / "statistics.json", describe(made, quarantine, licence="CC-BY-4.0"))
    _jsonl(folder / "quarantine.jsonl", quarantine)
    return made


def _write_evaluation(
    folder: Path,
    models: list[ReportModel],
    samples: list[Sample],
    arms: tuple[str, ...],
    seeds: tuple[int, ...],
    chance: random.Random,
) -> None:
    kinds = [metric["kind"] for metric in METRICS]
    per_sample: dict[str, dict[str, list[float]]] = {}
    listed = []
    for model in models:
        skill = SKILL[model.arm] + (0.01 * (model.seed or 0))
        rows, scores = [], {kind: [] for kind in kinds}
        for sample in samples:
            reference = sample.references[0]
            right = chance.random() < skill
            prediction = reference if right else reference.replace("button", "icon").lower()
            near = 1.0 if right else skill * chance.uniform(0.4, 0.9)
            for kind in kinds:
                scores[kind].append(float(right) if kind == "exact_match" else near)
            rows.append(
                {
                    "id": sample.id,
                    "prediction": prediction,
                    "references": list(sample.references),
                    "new_tokens": 14,
                    "finished": True,
                    "metadata": sample.metadata,
                }
            )
        _jsonl(folder / f"predictions-{model.id}.jsonl", rows)
        per_sample[model.id] = scores
        lengths = {
            "words_mean": 10.1,
            "reference_words_mean": 10.2,
            "ratio": 0.99,
            "new_tokens_mean": 14.2,
            "finished_share": 1.0,
            "empty_share": 0.0,
        }
        summary = {kind: _score(scores[kind]) for kind in kinds}
        listed.append(
            {
                "id": model.id,
                "arm": model.arm,
                "seed": model.seed,
                "scores": summary,
                "lengths": lengths,
            }
        )
    arm_rows = [_arm(arm, kinds, listed) for arm in arms]
    differences = [
        found
        for b in arms
        if b != "student" and "student" in arms
        for kind in kinds
        if (found := _difference(kind, b, seeds, per_sample))
    ]
    groups: dict[str, Any] = {"title": {}}
    for title in sorted({sample.metadata["title"] for sample in samples}):
        inside = [i for i, sample in enumerate(samples) if sample.metadata["title"] == title]
        groups["title"][title] = {
            row["arm"]: {
                kind: {
                    "value": fmean(
                        per_sample[m["id"]][kind][i]
                        for m in listed
                        if m["arm"] == row["arm"]
                        for i in inside
                    ),
                    "n": len(inside),
                }
                for kind in kinds
            }
            for row in arm_rows
        }
    scores_file = {
        "n": len(samples),
        "confidence": 0.95,
        "bootstrap": 1000,
        "metrics": METRICS,
        "models": listed,
        "arms": arm_rows,
        "differences": differences,
        "groups": groups,
        "warnings": [],
    }
    _json(folder / "scores.json", scores_file)
    _json(folder / "sample_scores.json", per_sample)
    _json(folder / "MANIFEST.json", {"finished": "2026-01-02T03:04:05Z", "summary": {}})


def _score(values: list[float]) -> dict[str, Any]:
    mean = fmean(values)
    half = 1.96 * pstdev(values) / len(values) ** 0.5
    return {"value": mean, "low": mean - half, "high": mean + half, "n": len(values), "details": {}}


def _arm(arm: str, kinds: list[str], listed: list[dict[str, Any]]) -> dict[str, Any]:
    own = [model for model in listed if model["arm"] == arm]
    scores = {}
    for kind in kinds:
        values = [model["scores"][kind]["value"] for model in own]
        scores[kind] = {
            "mean": fmean(values),
            "sd": pstdev(values),
            "low": fmean(model["scores"][kind]["low"] for model in own),
            "high": fmean(model["scores"][kind]["high"] for model in own),
            "n": own[0]["scores"][kind]["n"],
            "per_seed": values,
        }
    return {"arm": arm, "seeds": [model["seed"] for model in own], "scores": scores}


def _difference(
    kind: str, b: str, seeds: tuple[int, ...], per_sample: dict[str, dict[str, list[float]]]
) -> dict[str, Any]:
    rows = []
    for seed in seeds:
        other = per_sample["teacher" if b == "teacher" else f"{b}-seed{seed}"][kind]
        own = per_sample[f"student-seed{seed}"][kind]
        found = _score([x - y for x, y in zip(own, other, strict=True)])
        rows.append({"seed": seed, **{k: found[k] for k in ("value", "low", "high")}})
    return {
        "metric": kind,
        "a": "student",
        "b": b,
        "mean": fmean(row["value"] for row in rows),
        "low": fmean(row["low"] for row in rows),
        "high": fmean(row["high"] for row in rows),
        "n": len(per_sample[f"student-seed{seeds[0]}"][kind]),
        "per_seed": rows,
    }


def _write_training(folder: Path, model: ReportModel, steps: int, chance: random.Random) -> None:
    rows = []
    for step in range(10, steps + 1, 10):
        plain = 4.0 * 0.99 ** (step / 2) + 0.02 + chance.uniform(0, 0.02)
        losses = {"cross_entropy": plain}
        if model.arm == "student":
            losses["divergence"] = plain * 0.6
        rows.append(
            {
                "step": step,
                "loss": sum(losses.values()) / len(losses),
                "losses": losses,
                "learning_rate": 1e-3,
                "tokens_per_second": 2500 + chance.uniform(-100, 100),
                "data_wait_share": 0.04,
                "seconds": step * 0.11,
            }
        )
    _jsonl(folder / "metrics.jsonl", rows)
    summary = {"steps": steps, "signal": "top_k" if model.arm == "student" else None}
    _json(folder / "MANIFEST.json", {"summary": summary, "seconds": steps * 0.11})


def _write_benchmark(folder: Path, arm: str) -> None:
    big = arm == "teacher"
    scale = 2.6 if big else 1.0
    found: list[dict[str, Any]] = []

    def add(regime: str, name: str, value: float, unit: str, **more: Any) -> None:
        bounds = {"low": value * 0.95, "high": value * 1.12, "spread": "p5-p95"}
        found.append(
            {
                "regime": regime,
                "name": name,
                "value": value,
                "unit": unit,
                "n": 48,
                **bounds,
                **more,
            }
        )

    for regime in ("fixed_length/batch_1", "fixed_length/batch_8", "natural_length/batch_1"):
        add(regime, "latency_ms", 41.5 * scale, "ms")
        add(regime, "latency_p95_ms", 47.0 * scale, "ms")
        add(regime, "time_to_first_token_ms", 9.1 * scale, "ms")
        add(regime, "decode_tokens_per_second", 610 / scale, "tokens/s")
        add(regime, "throughput_samples_per_second", 24 / scale, "samples/s")
        memory = 431.0 if big else 402.0
        add(regime, "peak_memory_mib", memory, "MiB", memory_kind="process RSS")
        own = {"memory_kind": "process RSS"}
        add(regime, "model_peak_memory_mib", memory - 391, "MiB", **own)
        add(regime, "new_tokens_mean", 14.2, "tokens/sample")
    add("load", "load_seconds", 0.41 * scale, "s")
    result = {
        "measurements": found,
        "machine": {
            "cpu": "a processor",
            "cores": 2,
            "threads": 1,
            "memory_gib": 15.6,
            "device": "cpu",
            "platform": "Linux",
        },
        "precision": "float32",
        "runtime": "transformers 5.23.0, sdpa",
        "parameters": 1_570_000 if big else 376_000,
        "disk_bytes": 6_310_000 if big else 1_540_000,
        "other_busy_cores": 0.1,
    }
    _json(folder / "results.json", result)


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
