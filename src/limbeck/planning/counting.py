"""How many parameters a model of given sizes has, family by family.

Every rule is the list of the weights that the class in transformers makes; the tests compare each
with the class itself.
"""

from __future__ import annotations

from collections.abc import Callable

from limbeck.planning.shape import Counted, Piece, Sizes


def linear(inputs: int, outputs: int, *, bias: bool = False) -> Counted:
    """Of a linear layer."""
    matrix = inputs * outputs
    return Counted(matrix + bias * outputs, matrix, inputs + outputs, outputs)


def other(parameters: int) -> Counted:
    """Norms, convolutions, positions: what is neither quantised nor adapted."""
    return Counted(parameters)


def counted(sizes: Sizes) -> dict[Piece, Counted]:
    """The parameters of every piece.

    Raises:
        KeyError: a family without a rule.
    """
    vision, projector = _VISION[sizes.family](sizes)
    embedding = other(sizes.vocabulary * sizes.width)
    head = other(0 if sizes.tied else sizes.vocabulary * sizes.width)
    return {
        "vision_tower": vision,
        "projector": projector,
        "language_model": language_layers(sizes),
        "embedding": embedding,
        "head": head,
    }


def language_layers(sizes: Sizes) -> Counted:
    """Of a Llama-like language model without its embedding."""
    return language_layer(sizes) * sizes.layers + other(sizes.width)


def language_layer(sizes: Sizes) -> Counted:
    """One layer: attention with shared key-value heads, a gated feed-forward, two RMSNorms."""
    width = sizes.width
    biased = sizes.family in ("qwen2_vl", "qwen2_5_vl", "llava_onevision")
    attention = linear(width, sizes.query_width, bias=biased)
    attention += linear(width, sizes.key_value_width, bias=biased) * 2
    attention += linear(sizes.query_width, width)
    feed_forward = linear(width, sizes.intermediate) * 2 + linear(sizes.intermediate, width)
    # Qwen3 also normalises each query and key over the width of a head.
    of_heads = 2 * sizes.query_width // sizes.heads if sizes.family == "qwen3_vl" else 0
    return attention + feed_forward + other(2 * width + of_heads)


def has_rule(family: str) -> bool:
    """Whether `counted` knows the family."""
    return family in _VISION


def _qwen2(sizes: Sizes) -> tuple[Counted, Counted]:
    width = sizes.vision_width
    joint = width * sizes.patches_per_token
    merger = linear(joint, joint, bias=True) + linear(joint, sizes.width, bias=True)
    return _qwen_tower(sizes, norm=2 * width), merger + other(2 * width)


def _qwen2_5(sizes: Sizes) -> tuple[Counted, Counted]:
    width, inner = sizes.vision_width, sizes.vision_intermediate
    joint = width * sizes.patches_per_token
    layer = linear(width, 3 * width, bias=True) + linear(width, width, bias=True)
    layer += linear(width, inner, bias=True) * 2 + linear(inner, width, bias=True)
    tower = (layer + other(2 * width)) * sizes.vision_layers + other(_patches(sizes))
    merger = linear(joint, joint, bias=True) + linear(joint, sizes.width, bias=True)
    return tower, merger + other(width)


def _qwen3(sizes: Sizes) -> tuple[Counted, Counted]:
    from limbeck.models.qwen3_vl import POSITIONS_PER_SIDE, Qwen3VL

    width = sizes.vision_width
    joint = width * sizes.patches_per_token
    tower = _qwen_tower(sizes, norm=2 * width)
    tower += other(POSITIONS_PER_SIDE**2 * width + width)  # positions, bias of the patches
    maps = linear(joint, joint, bias=True) + linear(joint, sizes.width, bias=True)
    deep = Qwen3VL.deep_layers  # their features are normalised after they were joined
    return tower, maps + other(2 * width) + (maps + other(2 * joint)) * deep


def _qwen_tower(sizes: Sizes, norm: int) -> Counted:
    width, inner = sizes.vision_width, sizes.vision_intermediate
    layer = linear(width, 3 * width, bias=True) + linear(width, width, bias=True)
    layer += linear(width, inner, bias=True) + linear(inner, width, bias=True)
    return (layer + other(2 * norm)) * sizes.vision_layers + other(_patches(sizes))


def _patches(sizes: Sizes) -> int:
    return 3 * sizes.frames * sizes.patch_side**2 * sizes.vision_width


def _clip_layers(sizes: Sizes) -> Counted:
    """Layers of CLIP and SigLIP: four maps, a feed-forward, two LayerNorms, all with biases."""
    width, inner = sizes.vision_width, sizes.vision_intermediate
    layer = linear(width, width, bias=True) * 4
    layer += linear(width, inner, bias=True) + linear(inner, width, bias=True)
    return (layer + other(4 * width)) * sizes.vision_layers


def _llava_projector(sizes: Sizes) -> Counted:
    return linear(sizes.vision_width, sizes.width, bias=True) + linear(
        sizes.width, sizes.width, bias=True
    )


def _llava(sizes: Sizes) -> tuple[Counted, Counted]:
    from limbeck.models.llava import Llava

    return _clip(sizes, Llava.patches_per_side), _llava_projector(sizes)


def _llava_next(sizes: Sizes) -> tuple[Counted, Counted]:
    from limbeck.models.llava_next import LlavaNext

    newline = other(sizes.width)
    return _clip(sizes, LlavaNext.patches_per_side), _llava_projector(sizes) + newline


def _llava_onevision(sizes: Sizes) -> tuple[Counted, Counted]:
    from limbeck.models.llava_onevision import LlavaOnevision

    newline = other(sizes.width)
    return _siglip(sizes, LlavaOnevision.patches_per_side), _llava_projector(sizes) + newline


def _idefics3(sizes: Sizes) -> tuple[Counted, Counted]:
    from limbeck.models.idefics3 import PATCHES_PER_SIDE

    projector = linear(sizes.vision_width * sizes.patches_per_token, sizes.width)
    return _siglip(sizes, PATCHES_PER_SIDE), projector


def _clip(sizes: Sizes, per_side: int) -> Counted:
    width = sizes.vision_width
    ends = width * (per_side**2 + 1) + width + 4 * width  # positions, class token, two norms
    return _clip_layers(sizes) + other(_patches(sizes) + ends)


def _siglip(sizes: Sizes, per_side: int) -> Counted:
    width = sizes.vision_width
    ends = width * per_side**2 + width + 2 * width  # positions, bias of the patches, a norm
    return _clip_layers(sizes) + other(_patches(sizes) + ends)


_VISION: dict[str, Callable[[Sizes], tuple[Counted, Counted]]] = {
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen2_5,
    "qwen3_vl": _qwen3,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "idefics3": _idefics3,
    "smolvlm": _idefics3,
}
