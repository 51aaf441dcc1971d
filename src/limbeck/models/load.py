"""Loading a model with its processor, and what the stages ask of a loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.tokens import Batch, Encoded, Encoder
from limbeck.errors import LimbeckError, MemoryExhaustedError, UsageError
from limbeck.models.family import Family, family_named
from limbeck.models.generation import Generated, generate
from limbeck.models.saving import save_model
from limbeck.models.source import model_folder
from limbeck.models.vision_features import by_the_door
from limbeck.models.weights import read_weights
from limbeck.recipe.sections import ModelSection

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class LoadedModel:
    """A model on its device with its processor. `model` may be wrapped with adapters."""

    model: Any
    processor: Any
    encoder: Encoder
    family: Family
    section: ModelSection
    device: str

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def base(self) -> Any:
        """The transformers model below any adapters; adapters, if any, are active in it."""
        from peft import PeftModel

        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def hidden_states(self, inputs: dict[str, Tensor]) -> Tensor:
        """What the head reads, after the last normalisation: hidden_BLH.

        `inputs` are padded on the right; what stands at padding has no meaning.
        """
        placed = self.place(inputs)
        if self._needs_no_mask(placed.get("attention_mask")):
            del placed["attention_mask"]
        return self.base.base_model(**placed, use_cache=False).last_hidden_state

    def _needs_no_mask(self, mask: Any) -> bool:
        """Whether the mask says only what causality says: nobody looks at what comes later.

        PyTorch's attention then skips the upper half, which it cannot with a mask. (Flash attention
        does so by itself, and leaves the padding out because of the mask.)
        """
        kernel = self.base.config.get_text_config()._attn_implementation
        return mask is not None and mask.ndim == 2 and self.family.causal and kernel == "sdpa"

    def head(self, hidden_NH: Tensor) -> Tensor:
        """Logits [N, R] over all rows of the head, padding rows included."""
        import torch

        logits_NR = self.base.get_output_embeddings()(hidden_NH)
        config = self.base.config.get_text_config()
        if (scale := getattr(config, "logit_scale", None)) is not None:
            logits_NR = logits_NR * scale
        if (divisor := getattr(config, "logits_scaling", None)) is not None:
            logits_NR = logits_NR / divisor
        if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
            logits_NR = cap * torch.tanh(logits_NR / cap)
        return logits_NR

    def verify_head(self, batch: Batch) -> None:
        """Check on one batch that `head(hidden_states)` is what the model itself computes.

        Raises:
            UsageError: this model does something else between hidden states and logits.
        """
        import torch

        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                own = self.head(self.hidden_states(batch.inputs)).float()
                theirs = self.base(**self.place(batch.inputs), use_cache=False).logits.float()
        finally:
            self.model.train(training)
        real_BL = batch.inputs["attention_mask"].bool()
        own, theirs = own[real_BL], theirs[real_BL]
        tolerance = 1e-4 if self.base.dtype == torch.float32 else 0.05
        largest = max(1.0, theirs.abs().max().item())
        if (difference := (own - theirs).abs().max().item()) > tolerance * largest:
            raise UsageError(
                f"the head of {type(self.base).__name__} does more than Limbeck knows of"
                f" (logits differ by {difference:.3g})",
                mend="use another model family, and please report this one",
            )

    def place(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """Inputs on the model's device, pictures or their features in the model's precision."""
        dtype = self.base.dtype
        placed = {
            name: tensor.to(self.device, dtype if tensor.is_floating_point() else None)
            for name, tensor in inputs.items()
        }
        return by_the_door(placed)

    def generate(
        self,
        items: Sequence[Encoded],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        share_prefix: bool = False,
    ) -> list[Generated]:
        """Answers to the prompts of `items`; see `limbeck.models.generation.generate`."""
        return generate(
            self,
            items,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            temperature=temperature,
            seed=seed,
            share_prefix=share_prefix,
        )

    def save(self, folder: Path) -> None:
        """Write a folder that the Auto classes load; see `limbeck.models.saving.save_model`."""
        save_model(self, folder)


def load_model(section: ModelSection, *, device: str) -> LoadedModel:
    """The model and processor that `section.model` names, in evaluation mode.

    Only safetensors are read, and only from this machine.

    Args:
        section: its `model` is a hub id in the local cache or a folder.
        device: "cpu", "mps", "cuda" or "cuda:0".

    Raises:
        UsageError: not on this machine, unsafe weights, no vision-language model, or a missing
            extra package.
        MemoryExhaustedError: the device's memory does not hold the model.
    """
    from safetensors import SafetensorError
    from transformers import AutoProcessor
    from transformers.utils import logging

    assert section.model is not None, "a build or a composition is made before it is loaded"
    folder = model_folder(section.model, section.revision)
    logging.disable_progress_bar()
    try:
        model = read_weights(section, folder, device=device)
        processor = AutoProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=section.trust_remote_code
        )
    except LimbeckError:
        raise
    except (RuntimeError, MemoryError) as error:
        if _is_out_of_memory(error):
            raise MemoryExhaustedError(
                f"the memory of {device} does not hold the model",
                where=section.model,
                mend="use a smaller model or quantization: nf4",
            ) from error
        raise UsageError(f"cannot be loaded ({_first_line(error)})", where=section.model) from error
    except (ImportError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise UsageError(f"cannot be loaded ({_first_line(error)})", where=section.model) from error
    if getattr(processor, "image_processor", None) is None or not hasattr(processor, "tokenizer"):
        raise UsageError("has no processor for pictures and text", where=section.model)
    encoder = Encoder(
        processor,
        config=model.config,
        min_pixels=section.min_pixels,
        max_pixels=section.max_pixels,
        context_tokens=section.context_tokens,
    )
    family = family_named(model.config.model_type)
    return LoadedModel(model.eval(), processor, encoder, family, section, device)


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # Only CUDA has a class for it; these are the words of MPS and of the CPU allocator.
    return any(words in str(error) for words in ("out of memory", "can't allocate memory"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
