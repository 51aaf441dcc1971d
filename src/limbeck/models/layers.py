"""Where the layers of a vision tower or a language model are, in any family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.errors import UsageError
from limbeck.models.family import Family
from limbeck.recipe.sections import PartName

if TYPE_CHECKING:
    from torch import Tensor, nn


def layers_of(family: Family, model: nn.Module, part: PartName) -> tuple[str, nn.ModuleList]:
    """The path of a part's list of layers, and the list.

    It is the longest list of modules that is the part's own, not that of a part nested in it.

    Raises:
        UsageError: the part has no list of layers.
    """
    from torch import nn

    own = family.part_of(model, part)
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(name.startswith(f"{path}.") for name in own)
    ]
    if not lists:
        raise UsageError(
            f"the {part} of a {type(model).__name__} has no list of layers",
            mend="use another model family, and please report this one",
        )
    return max(lists, key=lambda item: (len(item[1]), -item[0].count(".")))


def hidden_given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states among what a layer was called with."""
    return kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]


def hidden_made(output: Any) -> Tensor:
    """The hidden states among what a layer returned."""
    return output[0] if isinstance(output, tuple) else output
