"""Bytes of weights and of what is computed with them."""

from __future__ import annotations

from limbeck.planning.activations import Numerics
from limbeck.planning.shape import Counted, Shape
from limbeck.recipe.sections import Adapter, ModelSection, Training

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
"""A weight in four bits; a scale of eight bits for 64 of them, and one of 32 bits for 256 scales
(Dettmers et al. 2023, "QLoRA", section 3: 4 + 8/64 + 32/(64·256) bits)."""
INT8_BYTES, SCALE_BYTES = 1, 4
"""A weight in eight bits, and a float32 scale for each output (Dettmers et al. 2022)."""


def value_bytes(section: ModelSection, shape: Shape) -> int:
    """Of a weight that is not quantised."""
    return BYTES.get(shape.stored if section.dtype == "auto" else section.dtype, 4)


def weight_bytes(section: ModelSection, shape: Shape, *, trained: bool = False) -> float:
    """Of all weights as they are loaded.

    bitsandbytes leaves embedding, head, norms and convolutions as they are; where adapters are
    trained on it, peft casts those to float32.
    """
    plain = value_bytes(section, shape)
    if section.quantization == "none":
        return shape.parameters * plain
    own = sum((one for p, one in shape.counted.items() if p != "head"), Counted())
    head = shape.counted["head"].total
    rest = (own.total - own.matrices + head) * (BYTES["float32"] if trained else plain)
    if section.quantization == "int8":
        return own.matrices * INT8_BYTES + own.rows * SCALE_BYTES + rest
    return own.matrices * NF4_BYTES + rest


def answering(section: ModelSection, shape: Shape) -> Numerics:
    """How a model computes that answers or scores."""
    plain = value_bytes(section, shape)
    return Numerics(plain, plain, eager=section.attention == "eager")


def training_numerics(
    section: ModelSection, shape: Shape, training: Training, adapter: Adapter | None
) -> Numerics:
    """How a model computes that is trained; see `Numerics`."""
    plain = value_bytes(section, shape)
    if section.quantization != "none":
        plain = BYTES["float32"]  # what is not quantised, and so the residual stream
    half = training.precision == "bf16"
    compute = BYTES["bfloat16"] if half else plain
    casts = half and plain == BYTES["float32"] and section.quantization == "none"
    copies = half and (plain == BYTES["float32"] or adapter is not None)
    return Numerics(plain, compute, copies, casts, section.attention == "eager")
