"""The evaluation stage: predictions of all arms to scores with intervals and differences."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from limbeck.evaluate.effects import Ablation
from limbeck.evaluate.predict import PREDICTIONS, read_predictions
from limbeck.evaluate.scoring import ModelPredictions, score_models
from limbeck.metrics import Metric
from limbeck.recipe.sections import Evaluation
from limbeck.records import Sample
from limbeck.store import write_json


def evaluate(
    output: Path,
    *,
    models: Sequence[tuple[str, str, int | None, Path]],
    samples: Sequence[Sample],
    settings: Evaluation,
    fidelity: Mapping[str, Path] | None = None,
    ablation: Ablation | None = None,
) -> dict[str, Any]:
    """Score every model and write `scores.json`, `sample_scores.json` and the predictions.

    Args:
        output: the stage's folder.
        models: id, arm, seed and predictions folder of each model.
        samples: the evaluated samples, in the order of the predictions.
        settings: metrics and bootstrap.
        fidelity: folders of the stages that compared models with the teacher token by token.
        ablation: the points among the models.
    """
    output.mkdir(parents=True, exist_ok=True)
    answered: list[ModelPredictions] = []
    for model, arm, seed, folder in models:
        shutil.copyfile(folder / PREDICTIONS, output / f"predictions-{model}.jsonl")
        answered.append(ModelPredictions(model, arm, seed, read_predictions(folder, model)))
    scores, per_sample = score_models(
        answered,
        samples,
        cast(Sequence[Metric], settings.metrics),
        bootstrap=settings.bootstrap,
        confidence=settings.confidence,
        seed=settings.seed,
        fidelity=fidelity or {},
        ablation=ablation,
    )
    write_json(output / "scores.json", scores)
    write_json(output / "sample_scores.json", per_sample)
    return {"models": len(answered), "samples": len(samples), "warnings": scores["warnings"]}
