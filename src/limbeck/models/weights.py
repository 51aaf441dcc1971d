"""Reading a model's weights: precision, quantisation and attention as a recipe asks for them."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

from limbeck.errors import UsageError
from limbeck.models.source import ADAPTER_FILES, adapter_folder
from limbeck.recipe.sections import ModelSection


def read_weights(
    section: ModelSection, folder: Path, *, device: str, quantized: bool = True
) -> Any:
    """The transformers model of a folder, as the section asks for it.

    Args:
        section: precision, quantisation, attention and remote code.
        folder: where the files are.
        device: where the weights go.
        quantized: False reads the weights unquantised although the section asks for it.
    """
    from transformers import AutoModelForImageTextToText

    options: dict[str, Any] = {"dtype": section.dtype}
    if section.attention != "auto":
        options["attn_implementation"] = section.attention
    if quantized and section.quantization != "none":
        options["quantization_config"] = _quantization(section)
        options["device_map"] = {"": device}
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=section.trust_remote_code,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(report["missing_keys"]):
        raise UsageError(
            f"weights of {len(missing)} parameters are missing, the first {missing[0]}",
            where=str(folder),
            mend="download the model again; it would start from random numbers there",
        )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes repacks 4-bit weights at the first evaluation on a CPU, and what it
            # computes with them after that has no gradient.
            module.support_avx512bf16_for_cpu = False
    if section.adapter_path is not None:
        model = with_given_adapter(model, section.adapter_path, merged="device_map" not in options)
    return model if "device_map" in options else model.to(device)


def with_given_adapter(model: Any, path: str, *, merged: bool) -> Any:
    """The model with a stored adapter in its weights, or active beside them.

    Raises:
        UsageError: the adapter is another model's, or of a kind that is no change of weights.
    """
    from peft import PeftConfig, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from limbeck.models.adapt import attach_adapter

    folder = adapter_folder(path)
    try:
        configuration = PeftConfig.from_pretrained(str(folder))
        if configuration.is_prompt_learning:
            raise ValueError(f"{configuration.peft_type} learns a prompt and changes no weights")
        adapted = attach_adapter(model, configuration)
        report = set_peft_model_state_dict(adapted, load_file(folder / ADAPTER_FILES[1]))
        own = [name for name in report.missing_keys if ".lora_" in name]
        if amiss := sorted([*report.unexpected_keys, *own]):
            raise ValueError(f"{len(amiss)} of its tensors do not fit, the first {amiss[0]}")
    except (ValueError, RuntimeError, KeyError, TypeError, OSError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"the adapter cannot be put on the model ({reason})",
            where=f"adapter_path: {path}",
            mend="give the adapter that was trained on this model",
        ) from error
    return adapted.merge_and_unload() if merged else adapted


def _quantization(section: ModelSection) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if not _has_bitsandbytes():
        raise UsageError(
            f"quantization: {section.quantization} needs bitsandbytes, which is not installed",
            where="quantization",
            mend='pip install "limbeck[quantization]"',
        )
    # One line for every product, because activations are in float32 while adapters are trained.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if section.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = {"float32": torch.float32, "float16": torch.float16}
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute.get(section.dtype, torch.bfloat16),
    )


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None
