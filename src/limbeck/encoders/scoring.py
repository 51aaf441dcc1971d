"""The score stage: one cell (teacher, student, arm) with all its seeds, and its guards.

Shapes: S seeds, n tested samples, E the student's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.encoders.data import Examples, read_examples
from limbeck.encoders.features import Features, read_features
from limbeck.encoders.guards import check_batch_invariance, check_controls, reached
from limbeck.encoders.recipe import EncoderEvaluation
from limbeck.encoders.scores import head_hits, knn_hits, probe_hits, retrieval_hits
from limbeck.encoders.students import towers_mib
from limbeck.encoders.training import WEIGHTS, StudentJob, embeddings_file, inputs_of, new_student
from limbeck.errors import GuardError
from limbeck.store import write_json

if TYPE_CHECKING:
    from torch import Tensor

HITS = "hits.safetensors"
INVARIANCE_SAMPLES = 5
Hits = dict[str, np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """Scores embeddings of a data set by the recipe's settings."""

    examples: Examples
    settings: EncoderEvaluation

    def hits(self, images_NE: Tensor, keys_KE: Tensor | None, *, shuffled: bool = False) -> Hits:
        """0 or 1 of each test sample, by score.

        Args:
            images_NE: embeddings of all pictures.
            keys_KE: of the classes or of all captions; None leaves out what needs them.
            shuffled: against permuted labels, or with captions that belong to other pictures.
        """
        import torch

        train, test = self.examples.of("train"), self.examples.of("test")
        order = np.random.default_rng(0)
        if self.examples.task == "retrieval":
            if keys_KE is None:
                return {}
            owners = self.examples.captions()[1]
            texts = np.flatnonzero(np.isin(owners, test))
            own = np.searchsorted(test, owners[texts])
            if shuffled:
                own = order.permutation(len(test))[own]
            found = retrieval_hits(images_NE[test], keys_KE[texts], torch.from_numpy(own))
            return {name: hits.numpy() for name, hits in found.items()}
        labels = self.examples.labels_N
        known, own = labels[train], labels[test]
        if shuffled:
            known, own = order.permutation(known), order.permutation(own)
        y_m, y_n = torch.from_numpy(known), torch.from_numpy(own)
        x_m, x_n = images_NE[train], images_NE[test]
        found = {} if keys_KE is None else {"head": head_hits(x_n @ keys_KE.T, y_n)}
        found["knn"] = knn_hits(x_m, y_m, x_n, y_n, self.settings.neighbours)
        found["probe"] = probe_hits(x_m, y_m, x_n, y_n, self.settings.probe_l2)
        return {name: hits.numpy() for name, hits in found.items()}

    def summary(self, hits_Sn: np.ndarray) -> dict[str, Any]:
        """Mean with its bootstrap interval over samples, and the spread of the seeds."""
        found = self.against(hits_Sn, np.zeros_like(hits_Sn))
        seeds = hits_Sn.mean(1)
        spread = float(seeds.std(ddof=1)) if len(seeds) > 1 else None
        return {
            "value": found["difference"],
            "low": found["low"],
            "high": found["high"],
            "n": found["n"],
            "seeds": [float(value) for value in seeds],
            "spread": spread,
        }

    def against(self, hits_Sn: np.ndarray, other_Sn: np.ndarray) -> dict[str, Any]:
        """The paired difference of two sets of hits."""
        return reached(
            hits_Sn,
            other_Sn,
            resamples=self.settings.bootstrap,
            confidence=self.settings.confidence,
        )


def judged_by(job: StudentJob, task: str) -> str | None:
    """The score on which a trained student has to beat its controls; None where none can tell.

    Random adapters keep the teacher's neighbours, so kNN cannot tell a trained adapter from one; a
    loss that does not train the head says nothing about the head.
    """
    if any(loss.trains_head for loss in job.losses):
        return "head" if task == "classification" else "image_to_text_r10"
    return "knn" if job.student.from_pixels and task == "classification" else None


def score_teacher(cached: Path, data: Path, output: Path, settings: EncoderEvaluation) -> Any:
    """The teacher's own scores; its head is zero-shot where it reads text, and else left out."""
    import torch
    from torch.nn.functional import normalize

    features, scorer = read_features(cached), Scorer(read_examples(data), settings)
    keys = None
    if features.texts_MD is not None:
        keys = normalize(torch.from_numpy(np.array(features.texts_MD)), dim=1)
    images = normalize(torch.from_numpy(np.array(features.pooled_ND)), dim=1)
    found = scorer.hits(images, keys)
    write_json(
        output / "scores.json", {name: scorer.summary(hits[None]) for name, hits in found.items()}
    )
    return {name: float(hits.mean()) for name, hits in found.items()}


def score_students(
    jobs: Sequence[StudentJob],
    folders: Sequence[Path],
    data: Path,
    cached: Path,
    output: Path,
    settings: EncoderEvaluation,
) -> dict[str, Any]:
    """Write `scores.json` (each epoch, and the guards) and the hits of the last epoch."""
    import torch
    from safetensors.torch import load_file, save_file

    job, scorer = jobs[0], Scorer(read_examples(data), settings)

    def stacked(epoch: int, *, shuffled: bool = False) -> Hits:
        made = [load_file(folder / embeddings_file(epoch)) for folder in folders]
        rows = [scorer.hits(one["images"], one["keys"], shuffled=shuffled) for one in made]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    epochs = {epoch: stacked(epoch) for epoch in (0, *job.training.epochs)}
    final = epochs[job.training.epochs[-1]]
    shuffled = stacked(job.training.epochs[-1], shuffled=True)
    controls = {
        name: {
            "an untrained student": scorer.against(hits, epochs[0][name]),
            "a score against shuffled labels": scorer.against(hits, shuffled[name]),
        }
        for name, hits in final.items()
    }
    judged = judged_by(job, scorer.examples.task)
    failures, warnings = [], []
    for name, found in controls.items():
        for control, row in found.items():
            if name == judged:
                failures += caught(control, row, name)
            elif name in ("knn", "probe") and row["reached"]:
                warnings.append(f"{control} does as well by {name}")
    if judged is None:
        warnings.append("no score can tell this student from an untrained one")
    features = read_features(cached)
    failures += batch_failures(job, folders[0], scorer.examples, features)
    scores = {
        str(epoch): {name: scorer.summary(hits) for name, hits in found.items()}
        for epoch, found in epochs.items()
    }
    save_file({name: torch.from_numpy(hits) for name, hits in final.items()}, output / HITS)
    content = {
        "scores": scores,
        "towers_mib": towers_mib(job.student, features.shape),
        "judged_by": judged,
        "controls": controls,
        "failures": failures,
        "warnings": warnings,
    }
    write_json(output / "scores.json", content)
    return {"failures": failures}


def caught(control: str, row: dict[str, Any], name: str) -> list[str]:
    """The guard's message, where a control reaches the trained student."""
    try:
        check_controls({control: row}, where=name)
    except GuardError as error:
        return [str(error)]
    return []


def batch_failures(
    job: StudentJob, folder: Path, examples: Examples, features: Features
) -> list[str]:
    """The guard's message, where a trained student's output depends on its neighbours."""
    from safetensors.torch import load_file

    model = new_student(job, features, len(examples.classes))
    model.load_state_dict(load_file(folder / WEIGHTS))
    rows = examples.of("test")[:INVARIANCE_SAMPLES]
    inputs = inputs_of(job.student, examples, features, rows, job.device)
    try:
        check_batch_invariance(model.image, inputs, where="batch")
    except GuardError as error:
        return [str(error)]
    return []
