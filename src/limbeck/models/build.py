"""Models made from a configuration with random weights, and a tokenizer trained on the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import UsageError
from limbeck.models.family import family_named
from limbeck.models.tokenizer import train_tokenizer
from limbeck.recipe.sections import Build


def build_model(build: Build, texts: Sequence[str], seed: int, output: Path) -> dict[str, Any]:
    """Write a checkpoint that the Auto classes load; the same arguments give the same bytes.

    Two builds of one family with the same `tokenizer_*` fields on the same texts have the same
    tokenizer, whatever their other sizes and seeds.

    Raises:
        UsageError: sizes that do not fit one another, or a family that cannot be built.
    """
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig
    from transformers.utils import logging

    _check(build)
    family = family_named(build.family)
    tokenizer = train_tokenizer(
        texts,
        build.tokenizer,
        build.tokenizer_vocabulary,
        special_tokens=family.special_tokens,
        end_of_turn=family.end_of_turn,
        template=family.template,
    )
    if build.vocabulary_rows is not None and build.vocabulary_rows < len(tokenizer):
        raise UsageError(
            f"{build.vocabulary_rows} rows do not hold the tokenizer's {len(tokenizer)} tokens",
            where="build.vocabulary_rows",
            mend="raise it, or lower tokenizer_vocabulary",
        )
    configuration = family.configuration(build, tokenizer)
    processor = family.processor(build, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(configuration, dtype=torch.float32)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    output.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    return {
        "family": build.family,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokenizer_tokens": len(tokenizer),
        "vocabulary_rows": model.get_output_embeddings().weight.shape[0],
    }


def _check(build: Build) -> None:
    for width, heads in (("hidden_size", "heads"), ("vision_hidden_size", "vision_heads")):
        # Rotary positions split a head into halves, on two axes in the vision tower.
        multiple = getattr(build, heads) * 4
        if getattr(build, width) % multiple:
            raise UsageError(
                f"{getattr(build, width)} is not a multiple of 4 * {heads} ({multiple})",
                where=f"build.{width}",
            )
    if build.heads % build.key_value_heads:
        raise UsageError(
            f"{build.heads} heads cannot share {build.key_value_heads} key-value heads",
            where="build.key_value_heads",
            mend="choose a divisor of heads",
        )
