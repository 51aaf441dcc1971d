"""What is particular about a model's processor: its pixel budget, its marker of pictures."""

from __future__ import annotations

from typing import Any


def set_budget(image_processor: Any, least: int | None, most: int | None) -> bool:
    """Whether the processor keeps a picture's shape within a budget of pixels; sets the budget."""
    size = dict(image_processor.size or {})
    in_pixels = {"shortest_edge", "longest_edge"} <= {k for k, v in size.items() if v}
    if not (in_pixels and hasattr(image_processor, "merge_size")):
        return False
    most = most or max(size["longest_edge"], least or 0)
    least = least or min(size["shortest_edge"], most)
    image_processor.size = type(image_processor.size)(shortest_edge=least, longest_edge=most)
    return True


def image_token_id(config: Any, processor: Any) -> int | None:
    """The token that stands for a picture, wherever this model or processor has it."""
    for owner, name in (
        (config, "image_token_id"),
        (config, "image_token_index"),
        (processor, "image_token_id"),
    ):
        if (found := getattr(owner, name, None)) is not None:
            return found
    return None
