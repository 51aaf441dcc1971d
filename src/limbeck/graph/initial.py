"""Models before any training: from the hub or a folder, built, or composed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.data.samples import read_samples
from limbeck.graph.core import Graph
from limbeck.recipe.sections import ModelSection, Training
from limbeck.stages import MODEL, Command, ModelOf, Stage

WITHOUT_EFFECT = {"checkpoint_every", "workers", "tracker"}
"""Fields of `training` that change no output."""

Inputs = Mapping[str, Path]


def initial_model(
    graph: Graph, section: ModelSection, seed: int, title: str, command: Command
) -> ModelOf:
    """A model before any training: from the hub or a folder, built, or composed."""
    build, compose = section.build, section.compose
    if build is not None:

        def make_built(output: Path, inputs: Inputs) -> dict[str, Any]:
            from limbeck.models.build import build_model

            samples = read_samples(inputs["data"], "train")
            return build_model(build, _texts(samples), seed, output / MODEL)

        identity = {"build": build.model_dump(mode="json"), "seed": seed}
        reads = {"data": graph.data}
        stage = Stage("models", title, command, identity, reads, make_built)
        return ModelOf(section, graph.add(stage), MODEL, graph.adapter(section))
    if compose is not None:
        parts = [
            graph.weights(ModelSection(model=compose.vision, revision=compose.vision_revision)),
            graph.weights(ModelSection(model=compose.language, revision=compose.language_revision)),
        ]

        def make_composed(output: Path, _: Inputs) -> dict[str, Any]:
            from limbeck.models.compose import compose_model

            return compose_model(compose, seed, output / MODEL)

        identity = {"compose": compose.model_dump(mode="json"), "parts": parts, "seed": seed}
        stage = Stage("models", title, command, identity, {}, make_composed)
        return ModelOf(section, graph.add(stage), MODEL, graph.adapter(section))
    return ModelOf(section, weights=graph.weights(section))


def training_identity(training: Training) -> dict[str, Any]:
    """The training fields that can change its output."""
    return training.model_dump(mode="json", exclude=WITHOUT_EFFECT)


def _texts(samples: Sequence[Any]) -> list[str]:
    """Every text that a tokenizer made for these samples should know."""
    texts = [
        part["text"] for s in samples for m in s.messages for part in m["content"] if "text" in part
    ]
    return texts + [reference for s in samples for reference in s.references]
