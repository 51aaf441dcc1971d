"""What is particular about a family of vision-language models, one file a family.

The file's name is the `model_type` of the family's checkpoints. A family says where the parts of
its models are, and how one is made from the sizes of a recipe's `build`. A checkpoint of a family
without a file is handled by the names that transformers' models have in common.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from limbeck.errors import UsageError
from limbeck.models.tokenizer import (
    END_OF_TURN,
    IMAGE,
    SPECIAL_TOKENS,
    VISION_END,
    VISION_START,
    chat_template,
)
from limbeck.recipe.sections import Build, PartName
from limbeck.records import Grid

if TYPE_CHECKING:
    from torch import Tensor, nn

PARTS: tuple[PartName, ...] = ("vision_tower", "projector", "language_model", "head")

TINY_TEXTS = (
    "Describe the picture.",
    "a red square on a white wall",
    "a blue circle, and a green square on the left",
    "two circles and one square on a dark ground",
)

# Names that transformers' vision-language models use below `model.`, most usual first.
_CONVENTIONS: dict[PartName, tuple[str, ...]] = {
    "vision_tower": ("visual", "vision_tower", "vision_model", "vision_encoder", "vit"),
    "projector": (
        "multi_modal_projector",
        "mm_projector",
        "connector",
        "projector",
        "vision_projection",
        "merger",
        "visual.merger",
        "embed_vision",
        "aligner",
    ),
    "language_model": ("language_model", "text_model", "decoder"),
}


class Family:
    """Base of every family; the base itself serves checkpoints of families without a file."""

    model_type: ClassVar[str] = ""
    paths: ClassVar[dict[PartName, tuple[str, ...]]] = {}
    """Part -> prefixes of its parameters' names. Where prefixes nest, the longest one wins."""
    special_tokens: ClassVar[tuple[str, ...]] = SPECIAL_TOKENS
    """Of the tokenizer that a built model gets."""
    end_of_turn: ClassVar[str] = END_OF_TURN
    template: ClassVar[str] = chat_template(f"{VISION_START}{IMAGE}{VISION_END}")
    """The chat template that a built model gets."""
    causal: ClassVar[bool] = False
    """Whether no token of the language model, visual ones included, sees what comes after it."""
    deep_layers: ClassVar[int] = 0
    """Of a built model: from how many vision layers features go to later language layers, too."""

    def parts(self, model: nn.Module) -> dict[PartName, tuple[str, ...]]:
        """Prefixes of each part that this model has; a part that was not found is absent."""
        found = dict(self.paths) or _by_convention(model)
        found.setdefault("head", _head_path(model))
        return {part: prefixes for part, prefixes in found.items() if prefixes}

    def part_of(self, model: nn.Module, part: PartName) -> list[str]:
        """Names of the parameters of one part, without those of parts nested in it.

        Raises:
            UsageError: this model has no such part, or it is not where its family has it.
        """
        parts = self.parts(model)
        where = f"model of type {_model_type(model)!r}"
        if part not in parts:
            raise UsageError(
                f"the {part} was not found", where=where, mend=f"parts found: {', '.join(parts)}"
            )
        names = [
            name
            for name, _ in model.named_parameters(remove_duplicate=False)
            if _owner(name, parts) == part
        ]
        if not names:
            prefixes = " and ".join(parts[part])
            raise UsageError(f"the {part} has no parameters under {prefixes}", where=where)
        return names

    def grids(
        self, configuration: Any, inputs: Mapping[str, Tensor], visual_tokens: int
    ) -> list[Grid] | None:
        """Time, height and width of every picture (or tile) of a batch, in visual tokens.

        Args:
            configuration: the model's.
            inputs: of the batch.
            visual_tokens: that all pictures of the batch are together.

        Returns:
            In the order of the pictures; None where the tokens lie on no grid that is known.
        """
        return None

    def configuration(self, build: Build, tokenizer: Any) -> Any:
        """A transformers configuration with the sizes of `build`."""
        raise UsageError(
            f"models of the family {build.family!r} cannot be built from sizes",
            where="build.family",
            mend=f"choose one of {', '.join(family_names())}",
        )

    def processor(self, build: Build, tokenizer: Any) -> Any:
        """The family's processor, for pictures as the built model expects them."""
        raise UsageError(f"the family {build.family!r} has no processor to build")

    def picture_tokens(
        self, build: Build, width: int, height: int, pixels: tuple[int | None, int | None]
    ) -> int | None:
        """Visual tokens that a built model makes of a picture; None where only it can tell.

        `pixels` are the least and most that the recipe allows, where it says so.
        """
        return None

    def build(self, **sizes: Any) -> Build:
        """The smallest useful sizes of this family, for tests."""
        values: dict[str, Any] = {
            "family": self.model_type,
            "hidden_size": 32,
            "layers": 2,
            "heads": 2,
            "key_value_heads": 1,
            "intermediate_size": 64,
            "vision_hidden_size": 32,
            "vision_layers": 2,
            "vision_heads": 2,
            "tokenizer_vocabulary": 96,
            "image_mean": 0.5,
            "image_std": 0.5,
        }
        return Build(**{**values, **sizes})

    def tiny(self, folder: Path, seed: int = 0, **sizes: Any) -> Path:
        """Write a small complete checkpoint with the family's real classes, for tests."""
        from limbeck.models.build import build_model

        build_model(self.build(**sizes), TINY_TEXTS, seed, folder)
        return folder


def family_names() -> list[str]:
    """The families that have a file."""
    package = importlib.import_module("limbeck.models")
    names = [info.name for info in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if _family_in(name) is not None]


def family_named(model_type: str) -> Family:
    """The family of a model type; the base, which goes by conventions, if it has no file."""
    return _family_in(model_type) or Family()


def _family_in(name: str) -> Family | None:
    if not name.isidentifier() or importlib.util.find_spec(f"limbeck.models.{name}") is None:
        return None
    found = getattr(importlib.import_module(f"limbeck.models.{name}"), "FAMILY", None)
    return found if isinstance(found, Family) else None


def _owner(name: str, parts: dict[PartName, tuple[str, ...]]) -> PartName | None:
    matches = [
        (len(prefix), part)
        for part, prefixes in parts.items()
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".")
    ]
    return max(matches)[1] if matches else None


def _by_convention(model: nn.Module) -> dict[PartName, tuple[str, ...]]:
    modules = {name for name, _ in model.named_modules()}
    found: dict[PartName, tuple[str, ...]] = {}
    for part, candidates in _CONVENTIONS.items():
        for prefix in (f"{stem}{name}" for name in candidates for stem in ("model.", "")):
            if prefix in modules:
                found[part] = (prefix,)
                break
    return found


def _head_path(model: nn.Module) -> tuple[str, ...]:
    head = model.get_output_embeddings()  # type: ignore[operator]
    return tuple(name for name, module in model.named_modules() if module is head and head)


def _model_type(model: nn.Module) -> str:
    return getattr(getattr(model, "config", None), "model_type", type(model).__name__)
