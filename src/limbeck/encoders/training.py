"""The student stage: training with a checkpoint after each epoch, and embeddings for the scores.

Epoch 0 is the untrained student. Shapes: B samples, E the student's width, K classes or captions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.encoders.data import Examples, read_examples
from limbeck.encoders.features import Features, read_features
from limbeck.encoders.losses import EncoderLoss, View
from limbeck.encoders.recipe import EncoderTraining
from limbeck.encoders.students import EncoderStudent, ImageInputs
from limbeck.encoders.teacher_models import TEMPERATURE, batches
from limbeck.errors import NonFiniteError
from limbeck.progress import meter
from limbeck.stop import stop_on_signals
from limbeck.store import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.encoders.student_model import StudentModel

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class StudentJob:
    """What one training is made of."""

    student: EncoderStudent
    losses: Sequence[EncoderLoss]
    training: EncoderTraining
    seed: int
    device: str


def embeddings_file(epoch: int) -> str:
    """Name of what a student makes of all pictures after an epoch."""
    return f"epoch-{epoch:04d}.safetensors"


def inputs_of(
    student: EncoderStudent, examples: Examples, features: Features, rows: np.ndarray, device: str
) -> ImageInputs:
    """What a student takes of some rows: pixels in -1..1, or the teacher's features."""
    import torch

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(values[rows])).to(device)

    if student.from_pixels:
        return ImageInputs(pixels=tensor(examples.pixels).permute(0, 3, 1, 2) / 127.5 - 1)
    return ImageInputs(pooled_BD=tensor(features.pooled_ND), tokens_BGD=tensor(features.tokens_NGD))


def new_student(job: StudentJob, features: Features, classes: int) -> StudentModel:
    """The student with the random weights of its seed."""
    import torch

    from limbeck.encoders.student_model import StudentModel

    torch.manual_seed(job.seed)
    return StudentModel(job.student, features.shape, classes).to(job.device)


def train_student(job: StudentJob, data: Path, cached: Path, output: Path) -> dict[str, Any]:
    """Train, and write weights, embeddings at the chosen epochs, and `training.json`.

    Raises:
        NonFiniteError: a loss is NaN or infinite.
        StoppedError: a signal came; the finished epochs are kept.
    """
    import torch
    from safetensors.torch import save_file

    from limbeck.training import checkpoint

    examples, features = read_examples(data), read_features(cached)
    model = new_student(job, features, len(examples.classes))
    shape = features.shape
    projectors = torch.nn.ModuleList(
        [
            loss.projector(job.student.embedding, shape.width) or torch.nn.Identity()
            for loss in job.losses
        ]
    ).to(job.device)
    whole = torch.nn.ModuleList([model, projectors])
    optimizer = torch.optim.AdamW(
        whole.parameters(), lr=job.training.learning_rate, weight_decay=job.training.weight_decay
    )
    kept, last = output / "checkpoint", job.training.epochs[-1]
    state: dict[str, Any] = {"loss": [], "seconds": []}
    found = checkpoint.latest(kept)
    if found is None:
        _keep_embeddings(job, model, examples, features, output / embeddings_file(0))
    else:
        loaded = checkpoint.load(found, weights=whole.state_dict(), optimizers=[optimizer])
        state = {name: loaded[name] for name in state}
    done = len(state["loss"])
    with stop_on_signals() as stop, meter("epochs", last, done=done) as bar:
        for epoch in range(done + 1, last + 1):
            started = time.perf_counter()
            loss = _epoch(job, model, projectors, optimizer, examples, features, epoch)
            state["seconds"].append(time.perf_counter() - started)
            state["loss"].append(loss)
            if epoch in job.training.epochs:
                _keep_embeddings(job, model, examples, features, output / embeddings_file(epoch))
            weights = whole.state_dict()
            checkpoint.save(kept, epoch, weights=weights, optimizers=[optimizer], state=state)
            bar.advance(note=f"loss {loss:.3f}")
            if epoch < last:
                stop.raise_if_stopped()
    save_file({n: t.contiguous().cpu() for n, t in model.state_dict().items()}, output / WEIGHTS)
    write_json(output / "training.json", state)
    _remove(kept)
    return {"epochs": last, "loss": state["loss"][-1]}


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def _epoch(
    job: StudentJob,
    model: StudentModel,
    projectors: Any,
    optimizer: Any,
    examples: Examples,
    features: Features,
    epoch: int,
) -> float:
    """One pass over train; its order depends on the seed and the epoch alone."""
    import torch

    order = np.random.default_rng([job.seed, epoch])
    owners = examples.captions()[1]
    texts_of = [np.flatnonzero(owners == i) for i in range(len(examples.rows))]
    model.train()
    sums: list[float] = []
    weights = [*model.parameters(), *projectors.parameters()]
    for rows in batches(order.permutation(examples.of("train")), job.training.batch_size):
        inputs = inputs_of(job.student, examples, features, rows, job.device)
        if job.training.augment == "flip" and inputs.pixels is not None:
            turned = torch.from_numpy(order.random(len(rows)) < 0.5).to(job.device)
            turned = turned[:, None, None, None]
            inputs = ImageInputs(torch.where(turned, inputs.pixels.flip(-1), inputs.pixels))
        said = None
        if examples.task == "retrieval":
            said = np.array([order.choice(texts_of[i]) for i in rows])
            labels_B = torch.arange(len(rows), device=job.device)
        else:
            labels_B = torch.from_numpy(examples.labels_N[rows]).to(job.device)
        texts = _texts(features, said, job.device)
        student = model.view(inputs, model.keys(texts), labels_B)
        teacher = _teacher_view(features, rows, texts, labels_B, said is not None, job.device)
        loss = torch.zeros((), device=job.device)
        for term, projector in zip(job.losses, projectors, strict=True):
            loss = loss + term.weight * term(student, teacher, labels_B, projector).mean()
        if not bool(loss.isfinite()):
            raise NonFiniteError("the loss is not finite", where=f"epoch {epoch}")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, job.training.clip_norm)
        optimizer.step()
        sums.append(float(loss.detach()))
    return float(np.mean(sums))


def _texts(features: Features, said: np.ndarray | None, device: str) -> Tensor | None:
    import torch

    if features.texts_MD is None:
        return None
    chosen = features.texts_MD if said is None else features.texts_MD[said]
    return torch.from_numpy(np.array(chosen)).to(device)


def _teacher_view(
    features: Features,
    rows: np.ndarray,
    texts: Tensor | None,
    labels_B: Tensor,
    paired: bool,
    device: str,
) -> View:
    import torch
    from torch.nn.functional import normalize

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(values[rows])).to(device)

    embedding = normalize(tensor(features.pooled_ND), dim=1)
    keys = None if texts is None else normalize(texts, dim=1)
    if paired:
        assert keys is not None
        logits = embedding @ keys.T / TEMPERATURE
    else:
        assert features.logits_NC is not None
        logits = tensor(features.logits_NC)
    own = None if keys is None else keys[labels_B]
    return View(embedding, logits, own, tensor(features.maps_NG))


def _keep_embeddings(
    job: StudentJob, model: StudentModel, examples: Examples, features: Features, path: Path
) -> None:
    """Write `images` [N, E] of all rows and `keys` [K, E] of the classes or all captions."""
    import torch
    from safetensors.torch import save_file
    from torch.nn.functional import normalize

    model.eval()
    size = job.training.batch_size
    with torch.no_grad():
        parts = [
            normalize(
                model.image(inputs_of(job.student, examples, features, rows, job.device))[0], dim=1
            )
            for rows in batches(np.arange(len(examples.rows)), size)
        ]
        keys = model.keys(_texts(features, None, job.device))
    found = {"images": torch.cat(parts).cpu(), "keys": keys.contiguous().cpu()}
    save_file(found, path)
