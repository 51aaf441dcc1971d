"""From predictions to scores: every value with N and an interval, every difference paired."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from limbeck.errors import DataError, UsageError
from limbeck.evaluate.agreement import text_agreement
from limbeck.evaluate.bootstrap import bootstrap_values, interval
from limbeck.evaluate.comparison import Scored, arm_rows, difference_rows
from limbeck.evaluate.effects import Ablation, effect_rows
from limbeck.evaluate.fidelity_scores import fidelity_scores
from limbeck.evaluate.flips import flips
from limbeck.evaluate.groups import group_rows
from limbeck.evaluate.length_matched import length_matched
from limbeck.evaluate.predictions import read_prediction_rows
from limbeck.evaluate.reservations import reservations
from limbeck.metrics import Array, Metric
from limbeck.recipe.component import build_component
from limbeck.records import Prediction, Sample

THE_FILE = "file"
"""The arm that the answers in a file are."""


@dataclass(frozen=True)
class ModelPredictions:
    """The answers of one model: an arm of the recipe with its seed (None: no random choice)."""

    id: str
    arm: str
    seed: int | None
    predictions: Sequence[Prediction]


def score_models(
    models: Sequence[ModelPredictions],
    samples: Sequence[Sample],
    metrics: Sequence[Metric],
    *,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    fidelity: Mapping[str, Path] | None = None,
    ablation: Ablation | None = None,
) -> tuple[dict[str, Any], dict[str, dict[str, list[float | None]]]]:
    """Score all models on the same samples.

    Args:
        models: one entry for each arm and seed.
        samples: what was asked; every model must have answered each exactly once.
        metrics: each kind at most once.
        bootstrap: resamples.
        confidence: of the intervals, in (0, 1).
        seed: of the resamples.
        fidelity: folders in which models were compared with the teacher token by token.
        ablation: the points among the arms, whose axes are judged too.

    Returns:
        The content of scores.json, and `{model id: {metric: value of each sample}}` in the order of
        `samples`, None where a sample has nothing that the metric could compare with.

    Raises:
        DataError: a model did not answer exactly these samples, or there is none.
        UsageError: a metric or a model id is listed twice.
    """
    if not samples or not models:
        raise DataError("there is nothing to score", mend="evaluate at least one sample and model")
    _refuse_twice([metric.key for metric in metrics], "metric")
    _refuse_twice([model.id for model in models], "model")
    answers = {model.id: _aligned(model, samples) for model in models}
    texts = {name: [one.text for one in own] for name, own in answers.items()}
    scored: list[Scored] = []
    sample_scores: dict[str, dict[str, list[float | None]]] = {model.id: {} for model in models}
    model_scores: dict[str, dict[str, Any]] = {model.id: {} for model in models}
    for metric in metrics:
        one = _score_metric(metric, texts, samples, bootstrap=bootstrap, seed=seed)
        scored.append(one)
        for name, result in one.results.items():
            low, high = interval(result.value, one.resampled[name], confidence)
            model_scores[name][metric.key] = {
                "value": result.value,
                "low": low,
                "high": high,
                "n": len(one.kept),
                "details": result.details,
            }
        for name in texts:
            values: list[float | None] = [None] * len(samples)
            if name in one.results:
                for index, value in zip(one.kept, one.results[name].per_sample, strict=True):
                    values[index] = value
            sample_scores[name][metric.key] = values
    arms: dict[str, dict[int | None, str]] = {}
    for model in models:
        if model.seed in arms.setdefault(model.arm, {}):
            raise UsageError(f"arm {model.arm!r} has two models of seed {model.seed}")
        arms[model.arm][model.seed] = model.id
    bounds = partial(interval, confidence=confidence)
    resample = partial(_resampled, resamples=bootstrap, seed=seed)
    lengths = {name: _lengths(own, samples) for name, own in answers.items()}
    differences = (
        difference_rows(arms, scored, bounds, ablation.compares)
        if ablation
        else difference_rows(arms, scored, bounds)
    )
    apart = ablation.apart if ablation else frozenset[str]()
    reserved = [row for row in differences if not {row["a"], row["b"]} & apart]
    groups, group_means = group_rows(arms, scored, samples, bounds, resample)
    beside = {arm: own for arm, own in arms.items() if arm not in apart}
    matched = length_matched(beside, scored, texts, samples, bounds, resample)
    turned = flips(metrics, reserved, matched)
    score = partial(_score_metric, bootstrap=bootstrap, seed=seed)
    scores = {
        "n": len(samples),
        "confidence": confidence,
        "bootstrap": bootstrap,
        "metrics": [_described(metric) for metric in metrics],
        "models": [
            {
                "id": model.id,
                "arm": model.arm,
                "seed": model.seed,
                "scores": model_scores[model.id],
                "lengths": lengths[model.id],
            }
            for model in models
        ],
        "arms": [
            {**row, "length_ratio": _mean_ratio(lengths, arms[row["arm"]].values())}
            for row in arm_rows(arms, scored, bounds)
        ],
        "differences": differences,
        "groups": groups,
        "group_means": group_means,
        "length_matched": matched,
        "flips": turned,
        "text_agreement": text_agreement(arms, texts, samples, bounds, score),
        "fidelity": fidelity_scores(fidelity or {}, arms, bounds, bootstrap=bootstrap, seed=seed),
        "warnings": reservations(scored, turned, lengths, arms, len(samples)),
    }
    if ablation is not None:
        scores["effects"] = effect_rows(arms, scored, ablation.factors, bounds, confidence)
    return scores, sample_scores


def score_file(
    path: Path,
    metrics: Sequence[str | dict[str, Any]],
    *,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a JSONL file with rows `id, prediction, references` of any system.

    Args:
        path: the file.
        metrics: words (`cider_d`) or mappings (`{"kind": "bleu", "implementation": "sacrebleu"}`).
        bootstrap: resamples.
        confidence: of the intervals.
        seed: of the resamples.

    Returns:
        `{"n", "confidence", "bootstrap", "scores": {kind: {"value", "low", "high", "n", "details",
        "name", "scale", "signature", "higher_is_better"}}, "lengths", "groups", "group_means",
        "length_matched", "warnings"}`; lengths and groups as in scores.json.

    Raises:
        DataError: the file or a line of it is not what it should be (file:line), or no sample has
            what a metric needs.
        UsageError: a metric is not known or listed twice.
    """
    built = [cast(Metric, build_component("limbeck.metrics", "kind", one)) for one in metrics]
    rows = read_prediction_rows(path)
    samples = [
        Sample(row.id, "", (), references=row.references, metadata=row.metadata) for row in rows
    ]
    model = ModelPredictions(
        path.stem, THE_FILE, None, [Prediction(r.id, path.stem, r.prediction, 0) for r in rows]
    )
    scores, _ = score_models(
        [model], samples, built, bootstrap=bootstrap, confidence=confidence, seed=seed
    )
    found, matched = scores["models"][0]["scores"], scores["length_matched"]
    for metric in built:
        if metric.key not in found:
            raise DataError(
                f"no sample has what {metric.key} compares with",
                where=str(path),
                mend="give the rows references of the kind that the metric reads",
            )
    return {
        "n": scores["n"],
        "confidence": confidence,
        "bootstrap": bootstrap,
        "scores": {metric.key: {**found[metric.key], **_described(metric)} for metric in built},
        "lengths": scores["models"][0]["lengths"],
        "groups": {
            key: {group: own[THE_FILE] for group, own in groups.items()}
            for key, groups in scores["groups"].items()
        },
        "group_means": {key: own[THE_FILE] for key, own in scores["group_means"].items()},
        "length_matched": {"factor": matched["factor"], **matched["to_references"][0]},
        "warnings": scores["warnings"],
    }


def _score_metric(
    metric: Metric,
    texts: dict[str, list[str]],
    samples: Sequence[Sample],
    *,
    bootstrap: int,
    seed: int,
) -> Scored:
    kept = [i for i, sample in enumerate(samples) if metric.applies_to(sample.references, sample)]
    scored = Scored(metric, kept, {}, {})
    if not kept:
        return scored
    chosen = [samples[i] for i in kept]
    references = [sample.references for sample in chosen]
    for name, own in texts.items():
        scored.results[name] = metric.compute([own[i] for i in kept], references, chosen)
    statistics: list[Array] = [result.statistics_nd for result in scored.results.values()]
    values = bootstrap_values(metric, statistics, resamples=bootstrap, seed=seed)
    scored.resampled.update(zip(scored.results, values, strict=True))
    return scored


def _aligned(model: ModelPredictions, samples: Sequence[Sample]) -> list[Prediction]:
    """The model's answers in the order of the samples."""
    answers = {prediction.sample_id: prediction for prediction in model.predictions}
    mend = "let the model answer the evaluated samples again"
    if len(answers) != len(model.predictions):
        raise DataError(f"{model.id} answered a sample twice", where=model.id, mend=mend)
    wanted = {sample.id for sample in samples}
    for what, ids in (("has no answer to", wanted - answers.keys()),
                      ("answered what was not asked:", answers.keys() - wanted)):  # fmt: skip
        if ids:
            named = ", ".join(sorted(ids)[:3])
            raise DataError(
                f"{what} {len(ids)} of {len(samples)} samples ({named})", where=model.id, mend=mend
            )
    return [answers[sample.id] for sample in samples]


def _lengths(answers: Sequence[Prediction], samples: Sequence[Sample]) -> dict[str, float | None]:
    """How long the answers are; words of the references over samples that have any."""
    words = np.asarray([len(one.text.split()) for one in answers], dtype=np.float64)
    referenced = np.asarray([bool(sample.references) for sample in samples])
    reference_words = [
        float(np.mean([len(text.split()) for text in sample.references]))
        for sample in samples
        if sample.references
    ]
    wanted = sum(reference_words)
    return {
        "words_mean": float(words.mean()),
        "reference_words_mean": wanted / len(reference_words) if reference_words else None,
        "ratio": float(words[referenced].sum()) / wanted if wanted else None,
        "new_tokens_mean": float(np.mean([one.new_tokens for one in answers])),
        "finished_share": float(np.mean([one.finished for one in answers])),
        "empty_share": float(np.mean([not one.text.strip() for one in answers])),
    }


def _mean_ratio(lengths: dict[str, dict[str, float | None]], models: Iterable[str]) -> float | None:
    """Words of an arm's answers to one word of the references, the mean over its seeds."""
    ratios = [ratio for name in models if (ratio := lengths[name]["ratio"]) is not None]
    return float(np.mean(ratios)) if ratios else None


def _resampled(
    metric: Metric, statistics: Sequence[Array], draws: int, *, resamples: int, seed: int
) -> list[Array]:
    return bootstrap_values(metric, statistics, resamples=resamples, seed=seed, draws=draws)


def _described(metric: Metric) -> dict[str, Any]:
    return {
        "kind": metric.key,
        "name": metric.name,
        "scale": metric.scale,
        "higher_is_better": metric.higher_is_better,
        "signature": metric.signature,
    }


def _refuse_twice(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{what} {name!r} is listed twice", mend="keep one")
