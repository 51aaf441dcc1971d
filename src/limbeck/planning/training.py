"""The peak of memory while a model is trained, and its parts."""

from __future__ import annotations

from typing import Any, cast

from limbeck.losses.chunks import (
    BLOCK_ELEMENTS,
    BLOCK_ELEMENTS_ELSEWHERE,
    CHUNK_ELEMENTS,
    CHUNK_ROWS,
)
from limbeck.losses.targets import targets
from limbeck.planning.activations import (
    FLOAT32,
    Kept,
    Numerics,
    backward_work,
    language_layer,
    language_work,
    projector_kept,
    vision_layer,
    vision_work,
)
from limbeck.planning.memory import Memory, Part, beside, peak, pixels, reading, scoring, writing
from limbeck.planning.models import shape_of
from limbeck.planning.precision import (
    BYTES,
    answering,
    training_numerics,
    value_bytes,
    weight_bytes,
)
from limbeck.planning.shape import Counted, Shape
from limbeck.planning.trained import Trained, trained
from limbeck.planning.workload import Workload
from limbeck.recipe.sections import Training

BLOCK_COPIES = 4
"""Float32 tensors of a block's size: logits, softmax, gradient, and one on the way."""
MOMENTS = 2
"""AdamW keeps two (Kingma and Ba 2015; Loshchilov and Hutter 2019), in the weights' precision."""
MUON_COPIES = 4
"""Of the largest matrix while it is orthogonalised, in bfloat16 (Jordan et al. 2024)."""


def training_memory(work: Workload, shape: Shape, device: str) -> Memory:
    """Weights, optimiser and gradients, with the larger of two moments.

    When the backward pass begins all activations are there, and the head's gradient, which the
    fused losses have by then; when it ends all gradients are, and hardly an activation. Where a
    step has several micro-batches the gradients of the earlier ones are there all the time.
    """
    training = work.training
    assert training is not None, "a training says how"
    adapter = work.adapter
    numerics = training_numerics(work.model, shape, training, adapter)
    own = trained(shape, adapter, work.freeze)
    plain = value_bytes(work.model, shape)
    trained_bytes = own.adapter * FLOAT32 + (own.total - own.adapter) * plain
    gradients = Part("gradients", trained_bytes)
    always = [
        Part("weights", weight_bytes(work.model, shape, trained=adapter is not None)),
        Part("adapters", own.adapter * FLOAT32),
        Part("optimiser", optimizer_bytes(shape, own, training, plain)),
        *beside(work),
        *_signals_head(work, device),
        *_speaking(work, shape),
    ]
    kept = activations(shape, numerics, own, work, training)
    head = logits(shape, numerics, own, work, device)
    pictures = pixels(shape, numerics, work.lengths, _pictured(work, training))
    embedding = shape.counted["embedding"].total * plain if "embedding" in own.own else 0
    begins = [*kept, *head, pictures]
    ends = [gradients, Part("gradient of the embedding", embedding), pictures]
    if _accumulates(training, work.batch):
        always.append(gradients)
        ends = ends[1:]
    muon = training.optimizer == "muon"
    largest = max(shape.sizes.intermediate * shape.sizes.width, shape.sizes.vision_width**2 * 4)
    if muon:
        ends.append(Part("optimiser's work", MUON_COPIES * BYTES["bfloat16"] * largest))
    moments = [begins, ends, *_teacher_moments(work)]
    if device == "cpu":  # elsewhere these copies are in the machine's memory, not the device's
        of_optimizer = max(trained_bytes, next(p.bytes for p in always if p.name == "optimiser"))
        moments.append([Part("copy for the checkpoint", of_optimizer)])
        if adapter is not None:
            moments.append([Part("merged student", 2 * shape.parameters * plain)])
    return peak(always, moments, shape.source)


def activations(
    shape: Shape, numerics: Numerics, own: Trained, work: Workload, training: Training
) -> list[Part]:
    """What the backward pass needs, and what the forward pass works with."""
    sizes, batch, lengths = shape.sizes, work.batch, work.lengths
    tokens, patches = batch * lengths.whole, lengths.visual * sizes.patches_per_token
    language = language_layer(
        sizes,
        numerics,
        learns="language_model" in own.own or "language_model" in own.adapted,
        length=lengths.whole,
    )
    parts = [Part("activations", 0.0)]
    casts = 0
    if own.reaches("language_model"):
        kept = _kept(language, sizes.layers, training.gradient_checkpointing) * tokens
        kept += backward_work(sizes, numerics) * tokens
        parts.append(Part("activations", kept))
        casts += shape.counted["language_model"].matrices + _head_weights(shape)
    else:
        work_bytes = language_work(sizes, numerics, length=lengths.whole)
        parts.append(Part("activations", work_bytes * tokens))
    seen = _pictured(work, training) * patches
    if own.reaches("vision_tower"):
        vision = vision_layer(sizes, numerics, learns=True, patches=patches)
        kept = _kept(vision, sizes.vision_layers, training.gradient_checkpointing) * seen
        parts.append(Part("vision activations", kept))
        casts += shape.counted["vision_tower"].matrices
    elif seen:
        # A frozen tower is through when the language model begins: only the larger one counts.
        frozen = seen * vision_work(sizes, numerics, patches=patches)
        more = max(0.0, frozen - sum(part.bytes for part in parts))
        parts.append(Part("vision activations", more))
    if own.reaches("projector"):
        visual = _pictured(work, training) * lengths.visual
        parts.append(Part("vision activations", visual * projector_kept(sizes, numerics)))
    if numerics.casts:
        parts.append(Part("weights in bf16", casts * BYTES["bfloat16"]))
    return parts


def logits(
    shape: Shape, numerics: Numerics, own: Trained, work: Workload, device: str
) -> list[Part]:
    """Of head and losses on the supervised rows of a micro-batch.

    In one pass: a chunk of logits, a block in float32, and the gradient of the head's weights.
    Where a loss has no fused form: all logits, once as computed, as log-probabilities and as
    gradients, and twice more for each such loss.
    """
    sizes, c = shape.sizes, numerics.compute
    rows = work.batch * work.lengths.answer
    own_losses = [loss for loss in work.losses if not loss.reads_features]
    parts: list[Part] = []
    if work.signal in ("live", "hidden"):
        parts.append(Part("teacher's logits", rows * sizes.vocabulary * FLOAT32))
    if all(loss.fused for loss in own_losses):
        elements = BLOCK_ELEMENTS.get(device, BLOCK_ELEMENTS_ELSEWHERE)
        block = max(sizes.vocabulary, elements) * FLOAT32 * BLOCK_COPIES
        parts.append(Part("logits", min(rows, CHUNK_ROWS) * sizes.vocabulary * c + block))
        if own.head_trained(shape):
            parts.append(Part("gradient of the head", sizes.vocabulary * sizes.width * c))
    elif own_losses:
        copies = c + 2 * FLOAT32 + 2 * FLOAT32 * sum(not loss.fused for loss in own_losses)
        parts.append(Part("logits", rows * sizes.vocabulary * copies))
    return parts


def verbaliser_memory(work: Workload, shape: Shape) -> Memory:
    """A frozen model, its verbalisers with gradients and optimiser, and a few rows of logits.

    A verbaliser has three square maps and a norm in float32; the rows of one layer are computed
    again in the backward pass.
    """
    training = work.training
    assert training is not None, "verbalisers are trained"
    numerics = answering(work.model, shape)
    number = speaking_layers(work, shape)
    parameters = number * (3 * shape.sizes.width**2 + shape.sizes.width)
    copies = 1 if getattr(work.losses[0], "init", "") == "logit_lens" else 2 + MOMENTS
    rows = work.batch * work.lengths.answer
    states = rows * shape.sizes.width * FLOAT32 * number * 4
    taken = min(rows * shape.sizes.vocabulary, max(CHUNK_ELEMENTS, shape.sizes.vocabulary))
    always = [
        Part("weights", weight_bytes(work.model, shape)),
        Part("verbalisers", parameters * FLOAT32 * (copies + 1)),
    ]
    spoken = [Part("logits", taken * FLOAT32 * BLOCK_COPIES), Part("activations", states)]
    read = reading(shape, numerics, work.lengths, work.batch, work.lengths.whole)
    return peak(always, [spoken, read], shape.source)


def optimizer_bytes(shape: Shape, own: Trained, training: Training, plain: int) -> float:
    """AdamW's two moments, or Muon's one for the matrices of hidden layers."""
    if training.optimizer == "adamw":
        return MOMENTS * (own.adapter * FLOAT32 + (own.total - own.adapter) * plain)
    matrices = sum((one for one in own.own.values()), Counted()).matrices
    if "head" in own.own:
        matrices -= own.own["head"].matrices
    rest = own.total - own.adapter - matrices
    return own.adapter * FLOAT32 + (matrices + MOMENTS * rest) * plain


def _kept(layer: Kept, layers: int, checkpointed: bool) -> float:
    """Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost": inputs, and one layer."""
    return layers * layer.input + layer.layer if checkpointed else layers * layer.layer


def _head_weights(shape: Shape) -> int:
    return shape.sizes.vocabulary * shape.sizes.width


def _accumulates(training: Training, batch: int) -> bool:
    return training.tokens_per_step is not None or (training.samples_per_step or 0) > batch


def _pictured(work: Workload, training: Training) -> int:
    """Samples of a micro-batch whose pictures go through the tower."""
    return 0 if training.cache_vision_features else work.batch


def speaking_layers(work: Workload, shape: Shape) -> int:
    """How many layers of a model have verbalisers."""
    loss = cast(Any, next(one for one in work.losses if hasattr(one, "verbalisers")))
    wanted = loss.teacher_layers if work.title == "teacher" else loss.student_layers
    return len(targets(wanted, shape.sizes.layers))


def _speaking(work: Workload, shape: Shape) -> list[Part]:
    """Verbalisers in a student's training: its own are trained, the teacher's are read."""
    if not any(hasattr(one, "verbalisers") for one in work.losses):
        return []
    size = 3 * shape.sizes.width**2 * FLOAT32 * (2 + MOMENTS)
    rows = min(work.batch * work.lengths.answer * shape.sizes.vocabulary, CHUNK_ELEMENTS)
    return [
        Part("verbalisers", speaking_layers(work, shape) * size),
        Part("logits of layers", rows * FLOAT32 * BLOCK_COPIES),
    ]


def _signals_head(work: Workload, device: str) -> list[Part]:
    """Cached hidden states become distributions by the teacher's head (`signals/head.py`)."""
    if work.signal != "hidden" or work.teacher is None:
        return []
    sizes = shape_of(work.teacher).sizes
    size = FLOAT32 if device == "cpu" else BYTES["bfloat16"]
    return [Part("teacher's head", sizes.vocabulary * sizes.width * size)]


def _teacher_moments(work: Workload) -> list[list[Part]]:
    """A live teacher's forward pass over a micro-batch, and the student's own generation."""
    moments: list[list[Part]] = []
    for section in work.beside if work.beside_lengths else ():
        shape = shape_of(section)
        numerics, lengths = answering(section, shape), work.beside_lengths
        assert lengths is not None, "asked above"
        moments.append(reading(shape, numerics, lengths, work.batch, lengths.whole))
        if work.signal == "live":
            moments.append(scoring(shape, numerics, lengths, work.batch))
    if any(loss.target == "student" for loss in work.losses):
        shape = shape_of(work.model)
        moments += writing(shape, answering(work.model, shape), work.lengths, work.batch)
    return moments
