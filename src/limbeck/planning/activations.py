"""Memory of activations, layer by layer, from what PyTorch's autograd keeps.

Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", equation
1, counts s·b·h·(34 + 5·a·s/h) bytes for a layer of GPT in half precision. The same count, tensor by
tensor, for the layers that are trained here:

- no dropout masks, and no scores: scaled-dot-product attention keeps queries, keys, values, its
  output and a log-sum for each head and token; `eager` keeps the softmax besides
- RMSNorm computes in float32: it keeps its input so, its output as what the linear layers read
- a gated feed-forward of width I keeps gate, silu(gate), up and their product: 4·I
- autocast over float32 weights keeps a copy of the input for each linear layer that reads it, and
  one of each weight; adapters, which are in float32, make the same copies over bfloat16 weights
- a layer that is checkpointed keeps its input alone, and one such layer at a time is there whole
"""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.planning.shape import Sizes

FLOAT32 = 4


@dataclass(frozen=True)
class Numerics:
    """How a model computes.

    Attributes:
        weight: bytes of a weight that is not quantised, and of the residual stream.
        compute: bytes of what a matrix product makes.
        copies: whether each linear layer keeps a copy of its input (autocast, or an adapter).
        casts: whether autocast keeps a copy of each weight.
        eager: whether attention scores are kept.
    """

    weight: int
    compute: int
    copies: bool = False
    casts: bool = False
    eager: bool = False


@dataclass(frozen=True)
class Kept:
    """Bytes for each token of one layer: kept for the backward pass, and its input alone."""

    layer: float
    input: float


def language_layer(sizes: Sizes, numerics: Numerics, *, learns: bool, length: int) -> Kept:
    """Of a layer of the language model.

    Args:
        sizes: of the model.
        numerics: how it computes.
        learns: whether the layer's own weights, or adapters on them, are trained.
        length: tokens of a sequence (only `eager` depends on it).
    """
    width, inner, c = sizes.width, sizes.intermediate, numerics.compute
    norm = FLOAT32 * width  # its input
    inputs = 0
    if learns:
        norm += numerics.weight * width  # normalised, for the gradient of its weight
        if numerics.copies:
            inputs = 5 * c * width  # query, key, value, gate and up
        else:
            norm += numerics.weight * width  # its output, shared by those that read it
    attention = c * (2 * sizes.query_width + 2 * sizes.key_value_width) + FLOAT32 * sizes.heads
    if numerics.eager:
        attention += sizes.heads * length * (FLOAT32 + (c if c < FLOAT32 else 0))
    gated = c * inner * (4 if learns else 3)
    return Kept(2 * norm + inputs + attention + gated, numerics.weight * width)


def vision_layer(sizes: Sizes, numerics: Numerics, *, learns: bool, patches: int) -> Kept:
    """Of a layer of the vision tower, for each patch."""
    width, inner, c = sizes.vision_width, sizes.vision_intermediate, numerics.compute
    gated = sizes.family == "qwen2_5_vl"
    norm = (FLOAT32 if gated else numerics.weight) * width
    norm += c * width if learns else 0  # what the linear layers read
    norm += c * width if learns and gated else 0  # RMSNorm: normalised, for its weight
    # Values are a view of what query, key and value were made in; the first two are rotated.
    attention = c * width * 7 + FLOAT32 * sizes.vision_heads
    if numerics.eager:
        attention += sizes.vision_heads * patches * (FLOAT32 + (c if c < FLOAT32 else 0))
    feed_forward = c * inner * (4 if gated else 3)
    return Kept(2 * norm + attention + feed_forward, numerics.weight * width)


def projector_kept(sizes: Sizes, numerics: Numerics) -> float:
    """Bytes for each visual token: the joined patches, and what the activation gets and makes."""
    joint = sizes.vision_width * sizes.patches_per_token
    inner = sizes.width if sizes.family.startswith("llava") else joint
    return numerics.compute * (joint + 2 * inner)


def language_work(sizes: Sizes, numerics: Numerics, *, length: int) -> float:
    """Bytes for each token that are there at one moment of a forward pass that keeps nothing.

    The larger of the feed-forward (silu(gate), up and their product, over the residual and its
    norm) and attention (queries, keys and values before and after rotation).
    """
    c, stream = numerics.compute, (numerics.weight + numerics.compute) * sizes.width
    inner = 3 * c * sizes.intermediate
    attention = c * (3 * sizes.query_width + 4 * sizes.key_value_width)
    if numerics.eager:
        attention += sizes.heads * length * (c + FLOAT32)
    return stream + max(inner, attention, 2 * FLOAT32 * sizes.width)


def vision_work(sizes: Sizes, numerics: Numerics, *, patches: int) -> float:
    """As `language_work`, for each patch; rotation is in float32."""
    c, width = numerics.compute, sizes.vision_width
    stream = (numerics.weight + c) * width
    inner = (3 if sizes.family == "qwen2_5_vl" else 2) * c * sizes.vision_intermediate
    attention = 3 * c * width + 4 * FLOAT32 * width
    if numerics.eager:
        attention += sizes.vision_heads * patches * (c + FLOAT32)
    return stream + max(inner, attention)


def backward_work(sizes: Sizes, numerics: Numerics) -> float:
    """Bytes for each token of gradients that are there while one layer is gone back through."""
    return numerics.compute * 3 * sizes.intermediate + (numerics.weight + FLOAT32) * sizes.width
