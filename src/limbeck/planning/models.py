"""The shape of the model that a section names: from disk, from a build's sizes, or published."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from limbeck.errors import LimbeckError
from limbeck.models.source import model_folder
from limbeck.planning.counting import counted, has_rule
from limbeck.planning.published import PUBLISHED
from limbeck.planning.shape import Piece, Shape, Sizes
from limbeck.planning.weights import joined, shape_in
from limbeck.recipe.sections import Build, Compose, KeptLayers, ModelSection, Student

PATCHES_PER_TOKEN = {"qwen2_vl": 4, "qwen2_5_vl": 4, "qwen3_vl": 4, "idefics3": 4, "smolvlm": 4}
FRAMES = {"qwen2_vl": 2, "qwen2_5_vl": 2, "qwen3_vl": 2}


class Unknown(Exception):
    """What a plan cannot tell, and why."""


def shape_of(section: ModelSection, teacher: ModelSection | None = None) -> Shape:
    """The shape of a model.

    Args:
        section: which model.
        teacher: whose layers a student has that inherits.

    Raises:
        Unknown: nothing on this machine tells, and it is not among the published.
    """
    if isinstance(section, Student) and section.inherit is not None:
        if teacher is None:
            raise Unknown("its teacher's sizes are not known")
        whole = shape_of(teacher)
        kept = section.inherit
        return whole.kept(_count(kept.language), _count(kept.vision))
    if section.build is not None:
        return built(section.build)
    if section.compose is not None:
        return _composed(section.compose)
    assert section.model is not None, "a section has an origin"
    return _named(section.model, section.revision)


def built(build: Build) -> Shape:
    """The shape of a model with random weights; its vocabulary is that of the tokenizer at most.

    Raises:
        Unknown: a family that no rule counts.
    """
    if not has_rule(build.family):
        raise Unknown(f"no rule counts the parameters of a built {build.family}")
    head_width = build.hidden_size // build.heads
    sizes = Sizes(
        family=build.family,
        vocabulary=build.vocabulary_rows or build.tokenizer_vocabulary,
        width=build.hidden_size,
        layers=build.layers,
        intermediate=build.intermediate_size,
        heads=build.heads,
        query_width=build.hidden_size,
        key_value_width=build.key_value_heads * head_width,
        vision_width=build.vision_hidden_size,
        vision_layers=build.vision_layers,
        vision_intermediate=build.vision_hidden_size * 4,
        vision_heads=build.vision_heads,
        patch_side=build.patch_size,
        patches_per_token=PATCHES_PER_TOKEN.get(build.family, 1),
        frames=FRAMES.get(build.family, 1),
    )
    return of_sizes(sizes, "float32", "sizes of the build", build.vocabulary_rows is None)


def of_sizes(sizes: Sizes, stored: str, source: str, at_most: bool = False) -> Shape:
    """A shape whose parameters are counted by its family's rule."""
    whole = counted(sizes)
    without = counted(
        replace(sizes, layers=sizes.layers - 1, vision_layers=sizes.vision_layers - 1)
    )
    pieces: tuple[Piece, ...] = ("vision_tower", "language_model")
    layer = {piece: whole[piece] + without[piece] * -1 for piece in pieces}
    return Shape(sizes, whole, layer, stored, source, at_most)


@lru_cache(maxsize=64)
def _named(model: str, revision: str | None) -> Shape:
    try:
        folder = model_folder(model, revision)
        return shape_in(folder, what=f"weights of {model}")
    except LimbeckError as error:
        if model in PUBLISHED:
            return of_sizes(PUBLISHED[model], "bfloat16", f"published sizes of {model}")
        raise Unknown(str(error)) from error


def _composed(compose: Compose) -> Shape:
    """Both parts as they are, in float32, and a projector of two layers between them."""
    try:
        vision = model_folder(compose.vision, compose.vision_revision)
        language = model_folder(compose.language, compose.language_revision)
        return joined(vision, language)
    except LimbeckError as error:
        raise Unknown(str(error)) from error


def _count(kept: KeptLayers | None) -> int | None:
    if kept is None:
        return None
    return kept.count if kept.listed is None else len(kept.listed)
