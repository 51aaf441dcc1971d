"""Writing a model as a plain folder in Hugging Face layout, adapters merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.models.adapt import attach_adapter
from limbeck.models.source import model_folder
from limbeck.models.weights import read_weights

if TYPE_CHECKING:
    from limbeck.models.load import LoadedModel


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Weights as safetensors, processor and generation settings; the model itself is not changed.

    Adapters are merged into a fresh copy of the base weights, read unquantised from where they
    came from, so that a quantised base is not saved with its rounding and training may go on.
    """
    from peft import PeftModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = _merged(loaded) if isinstance(loaded.model, PeftModel) else loaded.model
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)


def _merged(loaded: LoadedModel) -> Any:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    section = loaded.section
    assert section.model is not None
    source = model_folder(section.model, section.revision)
    base = read_weights(section, source, device="cpu", quantized=False)
    configuration = loaded.model.peft_config["default"]
    fresh = attach_adapter(base, configuration)
    weights = get_peft_model_state_dict(loaded.model)
    set_peft_model_state_dict(fresh, {name: value.cpu() for name, value in weights.items()})
    merged = fresh.merge_and_unload()
    merged.generation_config = loaded.base.generation_config
    return merged
