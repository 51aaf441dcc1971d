"""The peak of memory of one stage: what is there all the time, and the largest of its moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.planning.activations import FLOAT32, Numerics, language_work, vision_work
from limbeck.planning.lengths import Lengths
from limbeck.planning.models import shape_of
from limbeck.planning.precision import answering, weight_bytes
from limbeck.planning.shape import Shape
from limbeck.planning.workload import Workload
from limbeck.recipe.sections import ModelSection
from limbeck.signals.top_k import ROWS_AT_ONCE

CHANNELS = 3
TOP_K_COPIES = 5
"""Float32 copies of a few rows of logits from which the likeliest tokens are taken."""


@dataclass(frozen=True)
class Part:
    """One share of a peak."""

    name: str
    bytes: float


@dataclass(frozen=True)
class Memory:
    """The peak of a stage, by its parts, largest first."""

    parts: tuple[Part, ...]
    source: str

    @property
    def bytes(self) -> float:
        """All parts together."""
        return sum(part.bytes for part in self.parts)


def peak(always: Sequence[Part], moments: Sequence[Sequence[Part]], source: str) -> Memory:
    """What is always there, with the largest moment."""
    largest = max(moments, key=lambda parts: sum(part.bytes for part in parts), default=())
    kept = [part for part in (*always, *largest) if part.bytes > 0]
    return Memory(tuple(sorted(kept, key=lambda part: -part.bytes)), source)


def memory_of(work: Workload, teachers: Sequence[ModelSection], device: str = "cuda") -> Memory:
    """The peak of a stage's tensors on its device; of the runtime's own memory see `machine.py`.

    Args:
        work: of the stage.
        teachers: of the recipe, whose layers a student may have.
        device: torch's type of it.

    Raises:
        Unknown: a model's sizes are not known.
    """
    from limbeck.planning.training import training_memory, verbaliser_memory

    shape = shape_of(work.model, teachers[0] if teachers else None)
    if work.doing == "train":
        return training_memory(work, shape, device)
    if work.doing == "build":
        origin = teachers[0] if getattr(work.model, "inherit", None) and teachers else work.model
        whole = shape_of(origin)  # a student of a teacher's layers is cut out of it
        return peak([Part("weights", weight_bytes(origin, whole))], [], whole.source)
    if work.doing == "teach layers to speak":
        return verbaliser_memory(work, shape)
    numerics = answering(work.model, shape)
    always = [Part("weights", weight_bytes(work.model, shape)), *beside(work)]
    # Where references are labelled without distributions, one sample is looked at.
    batch = work.batch if work.doing != "answer" or work.writes or work.scored else 1
    moments = [reading(shape, numerics, work.lengths, batch, work.lengths.whole)]
    if work.doing == "answer":
        if work.writes:
            moments = writing(shape, numerics, work.lengths, work.batch)
        if work.scored:
            moments.append(scoring(shape, numerics, work.lengths, work.batch))
    return peak(always, moments, shape.source)


def beside(work: Workload) -> list[Part]:
    """The weights of the models that are loaded with a stage's own."""
    return [
        Part("teacher's weights", weight_bytes(section, shape_of(section)))
        for section in work.beside
    ]


def reading(
    shape: Shape, numerics: Numerics, lengths: Lengths, batch: int, tokens: int
) -> list[Part]:
    """A forward pass that keeps nothing: vision tower or language model, whichever takes more."""
    sizes = shape.sizes
    patches = lengths.visual * sizes.patches_per_token
    vision = batch * patches * vision_work(sizes, numerics, patches=patches)
    language = batch * tokens * language_work(sizes, numerics, length=tokens)
    return [Part("activations", max(vision, language)), pixels(shape, numerics, lengths, batch)]


def pixels(shape: Shape, numerics: Numerics, lengths: Lengths, batch: int) -> Part:
    """The pictures of a batch in float32, and once more as the model computes."""
    sizes = shape.sizes
    values = CHANNELS * sizes.frames * sizes.patch_side**2
    size = FLOAT32 + (numerics.compute if numerics.compute < FLOAT32 else 0)
    return Part("pictures", batch * lengths.visual * sizes.patches_per_token * values * size)


def writing(shape: Shape, numerics: Numerics, lengths: Lengths, batch: int) -> list[list[Part]]:
    """Generation: the prompt at once, then token by token with a growing cache of keys and values.

    Keys and values of a token are 2 · layers · key-value width numbers. The cache grows by
    concatenation, so that one layer's is there twice.
    """
    sizes, c = shape.sizes, numerics.compute
    row = 2 * sizes.layers * sizes.key_value_width * c
    logits = Part("logits", batch * sizes.vocabulary * (c + FLOAT32))
    prompt = Part("keys and values", batch * lengths.prompt * row)
    grown = Part("keys and values", batch * lengths.whole * row * (1 + 1 / sizes.layers))
    return [
        [prompt, *reading(shape, numerics, lengths, batch, lengths.prompt)],
        [grown, logits, pixels(shape, numerics, lengths, batch)],
    ]


def scoring(shape: Shape, numerics: Numerics, lengths: Lengths, batch: int) -> list[Part]:
    """Distributions along answers: all logits of their tokens, then few rows of one in float32.

    The forward pass is over by then; its last hidden states are there.
    """
    sizes = shape.sizes
    rows = batch * lengths.answer
    logits = rows * sizes.vocabulary * (numerics.compute + FLOAT32)
    if numerics.compute == FLOAT32:
        logits /= 2  # in float32 they are not copied
    few = min(lengths.answer, ROWS_AT_ONCE) * sizes.vocabulary * FLOAT32 * TOP_K_COPIES
    hidden = batch * lengths.whole * sizes.width * numerics.weight
    return [
        Part("logits", logits + few),
        Part("activations", hidden),
        pixels(shape, numerics, lengths, batch),
    ]
