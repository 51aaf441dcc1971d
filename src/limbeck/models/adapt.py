"""What of a model is trained: adapters on some parts, or everything but the frozen parts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limbeck.errors import UsageError
from limbeck.recipe.sections import Adapter, PartName

if TYPE_CHECKING:
    from limbeck.models.load import LoadedModel


def prepare_for_training(
    loaded: LoadedModel,
    *,
    adapter: Adapter | None,
    freeze: Sequence[PartName] = (),
    gradient_checkpointing: bool = False,
) -> dict[str, int]:
    """Choose what is trained and put the model in training mode.

    With an adapter only the adapter is trained, and `loaded.model` becomes the model wrapped with
    it (its initial weights come from the global random state). Without one, all parameters but
    those of the `freeze` parts are.

    Returns:
        `trainable_parameters` and `total_parameters`.

    Raises:
        UsageError: a part that the model does not have, freezing that contradicts tied weights or
            the adapter, a quantised model without adapter, or nothing left to train.
    """
    quantized = loaded.section.quantization != "none"
    if quantized and adapter is None:
        raise UsageError(
            "the weights of a quantised model cannot be trained",
            where="quantization",
            mend="add an adapter, or load the model unquantised",
        )
    base = loaded.base
    if base is not loaded.model:
        raise UsageError(
            "a quantised model whose adapter is not merged cannot be trained",
            where="adapter_path",
            mend="load the model unquantised",
        )
    if quantized:
        from peft import prepare_model_for_kbit_training

        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    if adapter is None:
        _train_all_but(loaded, base, freeze)
    else:
        if both := set(freeze) & set(adapter.parts):
            raise UsageError(f"{', '.join(both)} cannot be frozen and adapted", where="freeze")
        loaded.model = _with_adapter(loaded, base, adapter)
    if gradient_checkpointing:
        # Only the non-reentrant form gives gradients below frozen embeddings without making the
        # inputs require them, which would send the backward pass through a frozen vision tower.
        base.activation_checkpointing_enable({"use_reentrant": False})
    loaded.model.train()
    counts = [(_size(p), p.requires_grad) for p in loaded.model.parameters()]
    trainable = sum(size for size, trained in counts if trained)
    if not trainable:
        raise UsageError("every part is frozen, nothing is left to train", where="freeze")
    return {"trainable_parameters": trainable, "total_parameters": sum(n for n, _ in counts)}


def _train_all_but(loaded: LoadedModel, base: Any, freeze: Sequence[PartName]) -> None:
    parameters = dict(base.named_parameters(remove_duplicate=False))
    frozen = {name for part in freeze for name in loaded.family.part_of(base, part)}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    for name in frozen:
        parameters[name].requires_grad_(False)
    kept = {id(parameters[name]): name for name in parameters.keys() - frozen}
    for name in sorted(frozen):
        if (other := kept.get(id(parameters[name]))) is not None:
            raise UsageError(
                f"{name} is frozen and {other} is trained, and they are one weight (tied)",
                where="freeze",
                mend="freeze both head and language_model, or neither",
            )


def _with_adapter(loaded: LoadedModel, base: Any, adapter: Adapter) -> Any:
    from peft import LoraConfig

    configuration = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha if adapter.alpha is not None else 2 * adapter.rank,  # type: ignore[arg-type]
        lora_dropout=adapter.dropout,
        use_dora=adapter.kind == "dora",
        target_modules=_linear_layers(loaded, base, adapter),
    )
    return attach_adapter(base, configuration)


def attach_adapter(base: Any, configuration: Any) -> Any:
    """The model wrapped with fresh adapters as a peft configuration says."""
    from peft import get_peft_model

    with warnings.catch_warnings():  # peft asks for an attribute that transformers has renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(base, configuration)


def _linear_layers(loaded: LoadedModel, base: Any, adapter: Adapter) -> list[str]:
    from torch import nn

    modules = dict(base.named_modules())
    layers: list[str] = []
    for part in adapter.parts:
        owners = (name.rpartition(".")[0] for name in loaded.family.part_of(base, part))
        linear = [name for name in dict.fromkeys(owners) if isinstance(modules[name], nn.Linear)]
        if adapter.targets != "all_linear":
            linear = [name for name in linear if name.rpartition(".")[2] in adapter.targets]
        if not linear:
            names = {n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, nn.Linear)}
            raise UsageError(
                f"the {part} has none of the linear layers that the adapter is for",
                where="adapter.targets",
                mend=f"linear layers of this model: {', '.join(sorted(names))}",
            )
        layers += linear
    embeddings = base.get_input_embeddings().weight
    if any(modules[name].weight is embeddings for name in layers):
        raise UsageError(
            "the head shares its weight with the embeddings, an adapter would part them",
            where="adapter.parts",
            mend="leave out head",
        )
    return layers


def _size(parameter: Any) -> int:
    state = getattr(parameter, "quant_state", None)  # 4-bit weights are stored packed
    return parameter.numel() if state is None else math.prod(state.shape)
