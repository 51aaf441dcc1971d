"""Teachers as folders: a tiny one is built and trained, any is loaded the same way from its folder.

Shapes: B pictures, N all pictures, D the teacher's width, C classes, M texts, T patches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.encoders.data import Examples, read_examples
from limbeck.encoders.teachers import EncoderTeacher, ImageFeatures, TinyTeacher
from limbeck.errors import NonFiniteError, UsageError
from limbeck.progress import meter
from limbeck.store import write_json

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 0.07
"""Divides the cosines of pictures and texts, as CLIP's does at its start."""

PROCESSOR = "preprocessor_config.json"


@dataclass
class LoadedTeacher:
    """A model with what its pixels and texts need."""

    teacher: EncoderTeacher
    model: Any
    tokenizer: Any
    mean: Sequence[float]
    spread: Sequence[float]
    side: int
    device: str

    def pixels(self, images_BSS3: np.ndarray) -> Tensor:
        """Stored bytes to normalised [B, 3, side, side]."""
        import torch
        from torch.nn.functional import interpolate

        x = torch.from_numpy(np.array(images_BSS3)).to(self.device).permute(0, 3, 1, 2) / 255
        if x.shape[-1] != self.side:
            size = (self.side, self.side)
            x = interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, spread = (x.new_tensor(v)[:, None, None] for v in (self.mean, self.spread))
        return (x - mean) / spread

    def look(self, images_BSS3: np.ndarray) -> ImageFeatures:
        """Features of stored pictures."""
        return self.teacher.look(self.model, self.pixels(images_BSS3))

    def read(self, texts: Sequence[str]) -> Tensor:
        """Vectors [M, D] of texts."""
        longest = min(
            self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings
        )
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        return self.teacher.read(self.model, tokens.to(self.device))


def load_teacher(teacher: EncoderTeacher, folder: Path, device: str) -> LoadedTeacher:
    """The model of a folder in Hugging Face layout.

    Raises:
        UsageError: the folder does not say how pixels are normalised.
    """
    from transformers import AutoTokenizer

    try:
        processor = json.loads((folder / PROCESSOR).read_text())
        mean, spread = processor["image_mean"], processor["image_std"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"has no readable {PROCESSOR} with image_mean and image_std",
            where=str(folder),
            mend="take it from where the weights came from",
        ) from error
    model = teacher.load_model(folder).to(device).eval()
    config = getattr(model.config, "vision_config", model.config)
    tokenizer = AutoTokenizer.from_pretrained(folder) if teacher.reads_text else None
    side = teacher.image_size or config.image_size
    return LoadedTeacher(teacher, model, tokenizer, mean, spread, side, device)


def make_teacher(teacher: EncoderTeacher, data: Path, output: Path, device: str) -> dict[str, Any]:
    """Build a tiny teacher, train it on the labels or captions, and write its folder."""
    import torch

    sizes, examples = teacher.build, read_examples(data)
    assert sizes is not None
    torch.manual_seed(sizes.seed)
    texts = examples.prompts if examples.task == "classification" else examples.captions()[0]
    tokenizer = _tokenizer(texts) if teacher.reads_text else None
    model = teacher.new_model(sizes, tokenizer).to(device)
    halves = ([0.5] * 3, [0.5] * 3)
    loaded = LoadedTeacher(teacher, model, tokenizer, *halves, sizes.image_size, device)
    losses = _train(loaded, examples, sizes)
    folder = output / "model"
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    write_json(folder / PROCESSOR, {"image_mean": halves[0], "image_std": halves[1]})
    return {"loss_by_epoch": losses}


def _tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers.processors import TemplateProcessing

    from limbeck.models.tokenizer import END_OF_TURN, chat_template, train_tokenizer

    tokenizer = train_tokenizer(texts, "word", 8192, template=chat_template(""))
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    ends = [(END_OF_TURN, tokenizer.convert_tokens_to_ids(END_OF_TURN))]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END_OF_TURN}", special_tokens=ends
    )
    return tokenizer


def _train(loaded: LoadedTeacher, examples: Examples, sizes: TinyTeacher) -> list[float]:
    import torch
    from torch.nn.functional import cross_entropy, normalize

    rows = examples.of("train")
    labels_N = torch.from_numpy(examples.labels_N).to(loaded.device)
    paired = examples.task == "retrieval"
    captions = [row["captions"] for row in examples.rows]
    reads = loaded.teacher.reads_text
    head = torch.nn.Linear(sizes.width, max(len(examples.classes), 1)).to(loaded.device)
    weights = [*loaded.model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=sizes.learning_rate)
    order, means = np.random.default_rng(sizes.seed), []
    loaded.model.train()
    with meter("epochs of the teacher", sizes.epochs) as bar:
        for _ in range(sizes.epochs):
            losses = []
            for batch in batches(order.permutation(rows), sizes.batch_size):
                image_BD = loaded.look(examples.pixels[batch]).embedding_BD
                targets = labels_N[batch]
                if not reads:
                    loss = cross_entropy(head(image_BD), targets)
                else:
                    texts = (
                        [captions[i][int(order.integers(len(captions[i])))] for i in batch]
                        if paired
                        else examples.prompts
                    )
                    text_MD = normalize(loaded.read(texts), dim=1)
                    logits = normalize(image_BD, dim=1) @ text_MD.T / TEMPERATURE
                    if paired:
                        targets = torch.arange(len(batch), device=loaded.device)
                        loss = cross_entropy(logits.T, targets) / 2
                        loss = loss + cross_entropy(logits, targets) / 2
                    else:
                        loss = cross_entropy(logits, targets)
                if not bool(loss.isfinite()):
                    raise NonFiniteError("the loss is not finite", where="teachers")
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                losses.append(float(loss.detach()))
            means.append(float(np.mean(losses)))
            bar.advance(note=f"loss {means[-1]:.3f}")
    loaded.model.eval()
    return means


def batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows in batches; a single one that is left joins the batch before it (batch norms need 2)."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts
