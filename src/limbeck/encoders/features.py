"""The feature stage: what a teacher makes of every picture and text, computed once.

Shapes: N pictures, D the teacher's width, G cells of the grid, M texts (of classes, or captions),
C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.encoders.data import read_examples
from limbeck.encoders.scores import probe_weights
from limbeck.encoders.students import TeacherShape
from limbeck.encoders.teacher_models import TEMPERATURE, load_teacher
from limbeck.encoders.teachers import EncoderTeacher, ImageFeatures
from limbeck.progress import meter


@dataclass(frozen=True)
class Features:
    """A finished feature stage. Logits are zero-shot ones, or those of the teacher's linear probe.

    `logits_NC` is None in retrieval, `texts_MD` with a teacher that reads no text.
    """

    pooled_ND: np.ndarray
    tokens_NGD: np.ndarray
    maps_NG: np.ndarray
    texts_MD: np.ndarray | None
    logits_NC: np.ndarray | None

    @property
    def shape(self) -> TeacherShape:
        """What students have to know."""
        grid = round(self.maps_NG.shape[1] ** 0.5)
        return TeacherShape(self.pooled_ND.shape[1], self.texts_MD is not None, grid)


def make_features(
    teacher: EncoderTeacher, model: Path, data: Path, output: Path, *, l2: float, device: str
) -> dict[str, Any]:
    """Write `pooled.npy`, `tokens.npy`, `maps.npy`, and `texts.npy`, `logits.npy` where there are.

    Args:
        teacher: of which kind.
        model: its folder.
        data: a finished data stage.
        output: where to write.
        l2: of the linear probe that gives a teacher without text its logits, fitted on train.
        device: where the model runs.
    """
    import torch
    from torch.nn.functional import normalize

    loaded, examples = load_teacher(teacher, model, device), read_examples(data)
    found: list[tuple[np.ndarray, ...]] = []
    size = teacher.batch_size
    with torch.no_grad(), meter("pictures", len(examples.pixels)) as bar:
        for start in range(0, len(examples.pixels), size):
            part = examples.pixels[start : start + size]
            found.append(gridded(loaded.look(part), teacher.grid))
            bar.advance(len(part))
        pooled, tokens, maps = (np.concatenate(parts) for parts in zip(*found, strict=True))
        texts = examples.prompts if examples.task == "classification" else examples.captions()[0]
        text_MD = None
        if teacher.reads_text:
            parts = [loaded.read(texts[i : i + size]) for i in range(0, len(texts), size)]
            text_MD = torch.cat(parts).cpu()
    made = {"pooled": pooled, "tokens": tokens, "maps": maps}
    if text_MD is not None:
        made["texts"] = text_MD.numpy()
    if examples.task == "classification":
        pooled_ND, rows = torch.from_numpy(pooled), examples.of("train")
        if text_MD is not None:
            cosines = normalize(pooled_ND, dim=1) @ normalize(text_MD, dim=1).T
            made["logits"] = (cosines / TEMPERATURE).numpy()
        else:
            labels = torch.from_numpy(examples.labels_N[rows])
            probe = probe_weights(pooled_ND[rows], labels, len(examples.classes), l2)
            made["logits"] = probe(pooled_ND).numpy()
    for name, values in made.items():
        np.save(output / f"{name}.npy", values, allow_pickle=False)
    return {"width": int(pooled.shape[1])}


def gridded(seen: ImageFeatures, grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pooled features, and patches and attention as means of a grid of `grid` x `grid` cells."""
    from torch.nn.functional import adaptive_avg_pool2d

    batch, patches, width = seen.tokens_BTD.shape
    side = round(patches**0.5)
    square = seen.tokens_BTD.transpose(1, 2).reshape(batch, width, side, side)
    tokens = adaptive_avg_pool2d(square, (grid, grid)).flatten(2).transpose(1, 2)
    attention = seen.attention_BT.reshape(batch, 1, side, side)
    maps = adaptive_avg_pool2d(attention, (grid, grid)).flatten(1)
    maps = maps / maps.sum(1, keepdim=True)
    pooled, cells, shown = (x.float().cpu().numpy() for x in (seen.embedding_BD, tokens, maps))
    return pooled, cells, shown


def read_features(folder: Path) -> Features:
    """A finished feature stage; patches are mapped, not read."""

    def read(name: str) -> np.ndarray | None:
        path = folder / f"{name}.npy"
        return np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None

    pooled, tokens, maps = read("pooled"), read("tokens"), read("maps")
    assert pooled is not None
    assert tokens is not None
    assert maps is not None
    return Features(pooled, tokens, maps, read("texts"), read("logits"))
