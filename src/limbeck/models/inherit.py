"""A student made of some of its teacher's layers, with their weights.

Width, vocabulary, processor and chat template stay the teacher's; only depth shrinks, of the
language model, of the vision tower, or of both. Which layers are kept is listed, or follows a rule:

    first       the first `count`
    spread      `count` layers at equal distances, the first and the last among them
    influence   the `count` layers that change what passes through them most. The influence of a
                layer is 1 - E[cos(x, layer(x))] over tokens ("block influence", Men et al. 2024,
                "ShortGPT", equation 1), measured on samples of the training split

Published for text models that are then distilled, and a reason to try more than one rule: a student
of the teacher's first layers reached 54.1 where every other layer reached 45.8.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.tokens import collate
from limbeck.errors import UsageError
from limbeck.models.layers import hidden_given, hidden_made, layers_of
from limbeck.models.load import LoadedModel, load_model
from limbeck.recipe.sections import Inherit, KeptLayers, ModelSection, PartName
from limbeck.records import Sample

if TYPE_CHECKING:
    from torch import nn

SAMPLES_AT_ONCE = 4
WHERE = "student.inherit"
PARTS: dict[str, PartName] = {"language": "language_model", "vision": "vision_tower"}


@dataclass(frozen=True)
class _Kept:
    """The layers of one part that are kept, `indices` increasing, of `total`."""

    path: str
    total: int
    indices: tuple[int, ...]
    influence: tuple[float, ...] | None

    def describe(self) -> dict[str, Any]:
        return {"kept": list(self.indices), "of": self.total, "influence": self.influence}


def inherit_model(
    inherit: Inherit,
    teacher: ModelSection,
    samples: Sequence[Sample],
    data: Path,
    output: Path,
    *,
    device: str,
) -> dict[str, Any]:
    """Write the checkpoint of a student that has the chosen layers of its teacher.

    Args:
        inherit: which layers.
        teacher: a hub id or a folder by now; quantisation is left aside.
        samples: on which influence is measured.
        data: folder of their pictures.
        output: of the checkpoint.
        device: where influence is measured.

    Returns:
        Parameters of both models, and for each part which layers were kept.

    Raises:
        UsageError: layers that the teacher does not have, or that it cannot do without.
    """
    import torch
    from transformers.utils import logging

    loaded = load_model(teacher.model_copy(update={"quantization": "none"}), device=device)
    base = loaded.base
    kept = {
        name: _chosen(loaded, name, choice, samples[: inherit.samples], data)
        for name, choice in (("language", inherit.language), ("vision", inherit.vision))
        if choice is not None
    }
    configuration = copy.deepcopy(base.config)
    for name, own in kept.items():
        _shrink(configuration, name, own)
    weights = {
        renamed: tensor
        for key, tensor in base.state_dict().items()
        if (renamed := _renamed(key, kept.values())) is not None
    }
    with torch.random.fork_rng(devices=[]):  # every number is overwritten
        student = type(base)._from_config(configuration, dtype=base.dtype)
    student.load_state_dict(weights, strict=True)
    student.generation_config = base.generation_config
    output.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    student.save_pretrained(output)
    loaded.processor.save_pretrained(output)
    return {
        "parameters": _parameters(student),
        "parameters_of_the_teacher": _parameters(base),
        **{f"{name}_layers": own.describe() for name, own in kept.items()},
    }


def _chosen(
    loaded: LoadedModel, name: str, choice: KeptLayers, samples: Sequence[Sample], data: Path
) -> _Kept:
    path, layers = layers_of(loaded.family, loaded.base, PARTS[name])
    total, influence = len(layers), None
    if choice.listed is not None:
        indices = tuple(choice.listed)
        if indices[-1] >= total:
            raise UsageError(
                f"the teacher has no layer {indices[-1]}",
                where=f"{WHERE}.{name}.listed",
                mend=f"its {total} layers are numbered from 0 to {total - 1}",
            )
        return _Kept(path, total, indices, None)
    count = choice.count
    assert count is not None, "the section asks for one or the other"
    if count > total:
        raise UsageError(
            f"the teacher has {total} layers, not {count}", where=f"{WHERE}.{name}.count"
        )
    if choice.rule == "influence":
        influence = layer_influence(loaded, layers, samples, data, text=name == "language")
        best = sorted(range(total), key=lambda i: (-influence[i], i))[:count]
        return _Kept(path, total, tuple(sorted(best)), tuple(round(v, 6) for v in influence))
    return _Kept(path, total, by_rule(choice.rule, count, total), None)


def by_rule(rule: str, count: int, total: int) -> tuple[int, ...]:
    """`count` of `total` layers by a rule that looks at no model."""
    if rule == "first":
        return tuple(range(count))
    if count == 1:
        return (0,)
    return tuple(round(i * (total - 1) / (count - 1)) for i in range(count))


def layer_influence(
    loaded: LoadedModel,
    layers: nn.ModuleList,
    samples: Sequence[Sample],
    data: Path,
    *,
    text: bool,
) -> list[float]:
    """1 - E[cos(x, layer(x))] of every layer, over the tokens of some prompts.

    Args:
        loaded: the model.
        layers: of one of its parts.
        samples: whose prompts, with their first references, go through.
        data: folder of their pictures.
        text: whether padding has to be left out (a language model's layers).

    Raises:
        UsageError: there is no sample with a picture to measure on.
    """
    import torch

    seen = [sample for sample in samples if sample.images]
    if not seen:
        raise UsageError("influence is measured on samples with pictures", where=WHERE)
    sums, counts = [0.0] * len(layers), [0] * len(layers)
    real_BL: Any = None

    def note(number: int) -> Any:
        def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
            before, after = hidden_given(args, kwargs), hidden_made(output)
            alike = torch.cosine_similarity(before.float(), after.float(), dim=-1)
            alike = alike[real_BL] if text else alike.flatten()
            sums[number] += float((1 - alike).sum())
            counts[number] += alike.numel()

        return hook

    hooks = [
        layer.register_forward_hook(note(number), with_kwargs=True)
        for number, layer in enumerate(layers)
    ]
    try:
        for first in range(0, len(seen), SAMPLES_AT_ONCE):
            items = [
                loaded.encoder.encode(s, data, s.references[0] if s.references else None)
                for s in seen[first : first + SAMPLES_AT_ONCE]
            ]
            batch = collate(items, pad_id=loaded.encoder.pad_id, side="right").to(loaded.device)
            real_BL = batch.inputs["attention_mask"].bool()
            with torch.no_grad():
                loaded.hidden_states(batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [total / max(count, 1) for total, count in zip(sums, counts, strict=True)]


def _shrink(configuration: Any, name: str, kept: _Kept) -> None:
    """Make a configuration one of fewer layers, and mend what counts layers in it."""
    language = name == "language"
    part = configuration.get_text_config() if language else configuration.vision_config
    place = {old: new for new, old in enumerate(kept.indices)}
    for field, value in list(part.to_dict().items()):
        if field in ("num_hidden_layers", "depth") and value == kept.total:
            setattr(part, field, len(kept.indices))
        elif isinstance(value, list) and "layer" in field and len(value) == kept.total:
            setattr(part, field, [value[i] for i in kept.indices])
        elif isinstance(value, list) and "index" in field:
            all_needed = "deepstack" in field
            missing = [i for i in value if i not in place]
            if missing and (all_needed or len(missing) == len(value)):
                raise UsageError(
                    f"the teacher's {field} are {value}, and layer {missing[0]} is not kept",
                    where=f"{WHERE}.{name}",
                    mend=f"list {'these' if all_needed else 'one of these'} layers as well",
                )
            setattr(part, field, [place[i] for i in value if i in place])
    feature = getattr(configuration, "vision_feature_layer", None)
    if not language and isinstance(feature, int) and feature > 0:
        # It counts hidden states, of which the first is what goes into layer 0.
        if feature - 1 not in place:
            raise UsageError(
                f"the teacher's features are those of layer {feature - 1}, which is not kept",
                where=f"{WHERE}.{name}",
                mend="list it as well",
            )
        configuration.vision_feature_layer = place[feature - 1] + 1


def _renamed(key: str, kept: Any) -> str | None:
    """Where a weight goes; None for a layer that is left out."""
    for own in kept:
        if key.startswith(f"{own.path}."):
            number, _, rest = key.removeprefix(f"{own.path}.").partition(".")
            if int(number) not in own.indices:
                return None
            return f"{own.path}.{own.indices.index(int(number))}.{rest}"
    return key


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
