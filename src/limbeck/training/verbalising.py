"""The first stage of verbalised distillation: verbalisers of one model, its backbone frozen.

Every target layer's verbaliser learns to say the answer: mean over layers of -log head(verb(h))[y].
The layers' losses have no parameters in common, so each verbaliser learns on its own.

Source: Lee et al. 2024, "VLsI", arXiv 2412.01822, section 3.1.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from limbeck.losses.chunks import summed
from limbeck.losses.feature_loss import FeatureLoss, Pair
from limbeck.losses.functional import cross_entropy_rows
from limbeck.losses.targets import Targets, targets
from limbeck.recipe.sections import ModelSection, Training
from limbeck.records import IGNORED, Features, LossTerm, ModelShape, StudentView, Tap
from limbeck.training.batches import Example
from limbeck.training.job import Job

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.losses.verbal import Verbalisers
    from limbeck.models.load import LoadedModel
    from limbeck.models.vocabulary import Vocabulary

HELD_OUT = 10
"""One example of so many is not trained on, and tells how well each layer speaks."""

SAMPLES_AT_ONCE = 4


class Verbalise(FeatureLoss):
    """Trains the verbalisers of one model: the first stage of `kind: verbalised`."""

    compares: ClassVar[bool] = False
    needs_verbalisers: ClassVar[bool] = True

    kind: Literal["verbalise"] = "verbalise"
    layers: Targets = Field(4, description="every so many-th layer, or their numbers from 0")

    def student_taps(self, student: ModelShape, teacher: ModelShape) -> list[Tap]:
        """The target layers."""
        return [Tap("hidden", layer) for layer in targets(self.layers, student.layers)]

    def teacher_taps(self, student: ModelShape, teacher: ModelShape) -> list[Tap]:
        """None: it has no teacher."""
        return []

    def compare(
        self,
        student: StudentView,
        teacher: Features,
        pairs: Sequence[Pair],
        projector: nn.Module | None,
    ) -> LossTerm:
        """Sum over rows of the mean over layers, and the number of rows."""
        import torch

        values = layer_values(student, projector)
        return LossTerm(torch.stack(values).mean(), len(student.labels_N))


def layer_values(student: StudentView, verbalisers: nn.Module | None) -> list[Tensor]:
    """For each target layer in turn, the sum over rows of -log p(y)."""
    import torch

    assert verbalisers is not None, "the stage gives them"
    states = [torch.cat(found) for found in student.features.tensors.values()]
    labels_N = student.labels_N
    vocabulary = student.head(student.hidden_NH[:1]).shape[-1]
    found: list[Tensor] = []
    for state_NH, verbaliser in zip(states, verbalisers.children(), strict=True):

        def values_of(
            rows: slice, state_NH: Tensor = state_NH, say: nn.Module = verbaliser
        ) -> Tensor:
            return cross_entropy_rows(student.head(say(state_NH[rows])), labels_N[rows])

        found.append(summed(values_of, len(labels_N), vocabulary))
    return found


def layer_rows(student: StudentView, verbalisers: nn.ModuleList) -> list[Tensor]:
    """For each target layer in turn, -log p(y) of every row; for few rows, without gradient."""
    import torch

    states = [torch.cat(found) for found in student.features.tensors.values()]
    return [
        cross_entropy_rows(student.head(say(state_NH)), student.labels_N)
        for state_NH, say in zip(states, verbalisers.children(), strict=True)
    ]


def train_verbalisers(
    output: Path,
    *,
    section: ModelSection,
    layers: Targets,
    init: str,
    training: Training,
    examples: Sequence[Example],
    data: Path,
    seed: int,
    device: str,
    title: str,
    with_head: bool,
) -> dict[str, Any]:
    """Train and write the verbalisers of a model's target layers.

    Args:
        output: the stage's folder.
        section: the model.
        layers: which layers.
        init: "residual_zero", "random", or "logit_lens", which is not trained.
        training: how.
        examples: answers, all of one target.
        data: the data stage's folder.
        seed: of random weights and order.
        device: where the model runs.
        title: for progress.
        with_head: also write the model's head (a teacher's, for the second stage).

    Returns:
        For each layer its loss on held-out answers (nats a token), of the logit lens and of the
        verbaliser, beside the model's own.
    """
    import torch

    from limbeck.models.head_matrix import head_matrix
    from limbeck.models.load import load_model
    from limbeck.models.taps import shape_of
    from limbeck.models.verbaliser import new_verbalisers, save_verbalisers
    from limbeck.models.vocabulary import shared_vocabulary
    from limbeck.signals.head import write_head
    from limbeck.training.loop import train

    output.mkdir(parents=True, exist_ok=True)
    model = load_model(section, device=device)
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    rows = model.model.get_output_embeddings().weight.shape[0]
    vocabulary = shared_vocabulary(model.tokenizer, model.tokenizer, rows, rows)
    numbers = targets(layers, shape_of(model.base.config).layers)
    loss = Verbalise(layers=tuple(numbers), target=examples[0].target)
    held_out, trained_on = (
        examples[::HELD_OUT],
        [example for at, example in enumerate(examples) if at % HELD_OUT],
    )
    torch.manual_seed(seed)
    verbalisers = new_verbalisers(model, len(numbers), init)
    lens = new_verbalisers(model, len(numbers), "logit_lens")
    lens_losses = _losses(model, vocabulary, loss, lens, held_out, data)
    summary: dict[str, Any] = {}
    if init != "logit_lens":
        job = Job(output, model, vocabulary, trained_on, data, [loss], training, seed, title)
        job.verbalisers = verbalisers
        summary = train(job)
        model.model.eval()
    losses = _losses(model, vocabulary, loss, verbalisers, held_out, data)
    facts = {
        "layers": numbers,
        "init": init,
        "held_out_samples": len(held_out),
        "held_out_tokens": losses["tokens"],
        "own_loss": losses["own"],
        "logit_lens_losses": lens_losses["layers"],
        "losses": losses["layers"],
        "lowered_by": [
            lowered_by(before, after, losses["tokens_each"])
            for before, after in zip(lens_losses["sums"], losses["sums"], strict=True)
        ],
    }
    if os.environ.get("RANK", "0") == "0":  # two ranks would write into each other's files
        save_verbalisers(output, verbalisers, facts)
        if with_head:
            weight_RH = head_matrix(model)
            write_head(output, vocabulary.of(weight_RH.T).T.contiguous())
    return {**summary, **facts}


def read_both(student: LoadedModel, vocabulary: Vocabulary, own: Path, theirs: Path) -> Verbalisers:
    """The verbalisers that the first stages of student and teacher left, on the student's device.

    Raises:
        UsageError: the teacher's head has other tokens than the models share.
    """
    from limbeck.errors import UsageError
    from limbeck.losses.verbal import Verbalisers
    from limbeck.models.verbaliser import read_verbalisers
    from limbeck.signals.head import read_head

    device = str(student.device)
    head_VH = read_head(theirs, device)
    if vocabulary.columns is not None or head_VH.shape[0] != vocabulary.size:
        raise UsageError(
            f"the teacher's head has {head_VH.shape[0]} tokens, and {vocabulary.size} are shared",
            where="losses: verbalised",
            mend="use a student of the teacher's tokenizer",
        )
    mine, _ = read_verbalisers(own, device)
    their, _ = read_verbalisers(theirs, device)
    return Verbalisers(mine, their, head_VH)


def keep_spoken(job: Job, before: Path, folder: Path) -> None:
    """Write the student's verbalisers as its training has left them.

    Args:
        job: whose verbalisers were trained on.
        before: the folder that they came from, for their layers.
        folder: where they go.
    """
    from limbeck.losses.verbal import Verbalisers
    from limbeck.models.verbaliser import read_verbalisers, save_verbalisers

    assert isinstance(job.verbalisers, Verbalisers), "read by `read_both`"
    _, facts = read_verbalisers(before, "cpu")
    folder.mkdir(exist_ok=True)
    kept = {name: facts[name] for name in ("layers", "init")}
    save_verbalisers(folder, job.verbalisers.student, kept)


def _losses(
    model: LoadedModel,
    vocabulary: Vocabulary,
    loss: Verbalise,
    verbalisers: nn.ModuleList,
    examples: Sequence[Example],
    data: Path,
) -> dict[str, Any]:
    """Mean -log p(y) a token of every layer and of the model itself, and sums of each sample."""
    import torch

    from limbeck.data.tokens import collate
    from limbeck.models.taps import shape_of, tapped

    shape = shape_of(model.base.config)
    taps = loss.student_taps(shape, shape)
    sums: list[list[float]] = [[] for _ in taps]
    tokens_each: list[int] = []
    own = 0.0
    dtype = model.base.dtype

    def head(hidden_NH: Tensor) -> Tensor:
        return vocabulary.of(model.head(hidden_NH.to(dtype)))

    for first in range(0, len(examples), SAMPLES_AT_ONCE):
        items = [
            model.encoder.encode(e.sample, data, e.answer)
            for e in examples[first : first + SAMPLES_AT_ONCE]
        ]
        batch = collate(items, pad_id=model.encoder.pad_id, side="right").to(model.device)
        rows_BL = batch.targets_BL != IGNORED
        with torch.no_grad():
            with tapped(model, taps) as seen:
                hidden_NH = model.hidden_states(batch.inputs)[rows_BL]
            states = seen.features(batch.inputs, batch.targets_BL).only(taps)
            labels_N = vocabulary.columns_of(batch.targets_BL[rows_BL])
            view = StudentView(labels_N, hidden_NH, head, states)
            lengths = [len(item.answer_ids) for item in items]
            for layer, values_N in enumerate(layer_rows(view, verbalisers)):
                sums[layer] += [float(values.sum()) for values in values_N.split(lengths)]
            own += float(cross_entropy_rows(view.logits_NV, labels_N).sum())
        tokens_each += lengths
    tokens = sum(tokens_each)
    return {
        "layers": [round(sum(each) / max(1, tokens), 6) for each in sums],
        "own": round(own / max(1, tokens), 6),
        "tokens": tokens,
        "sums": sums,
        "tokens_each": tokens_each,
    }


def lowered_by(
    before: Sequence[float], after: Sequence[float], tokens: Sequence[int]
) -> dict[str, float]:
    """How much a layer's mean loss a token fell, with a 95 % interval over samples.

    A ratio of sums over samples, its variance by linearisation (Cochran 1977, section 6.4):
    D = sum d_i / sum n_i, with standard error sqrt(m / (m - 1) sum (d_i - D n_i)^2) / sum n_i.

    Args:
        before: summed loss of each of m samples, of the logit lens.
        after: of the verbaliser.
        tokens: n_i.
    """
    gained = [then - now for then, now in zip(before, after, strict=True)]
    total, samples = sum(tokens), len(tokens)
    value = sum(gained) / max(1, total)
    spread = sum((d - value * n) ** 2 for d, n in zip(gained, tokens, strict=True))
    half = 1.96 * (samples / max(1, samples - 1) * spread) ** 0.5 / max(1, total)
    bounds = {"value": value, "low": value - half, "high": value + half}
    return {name: round(number, 6) for name, number in bounds.items()}
