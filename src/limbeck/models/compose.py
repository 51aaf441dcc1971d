"""A new student from a vision encoder and a language model, as a real LLaVA model.

Both bring their weights; only the projector between them is new. The chat template of the language
model is kept, with a few lines before it that put an image marker where a message has a picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.errors import UsageError
from limbeck.models.source import model_folder
from limbeck.recipe.sections import Compose

IMAGE_TOKEN = "<image>"
_QUESTION = "limbeckquestion"

_FLATTEN_PARTS = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}"
    "{%- set flat.messages = flat.messages + [message] -%}"
    "{%- else -%}"
    "{%- set turn = namespace(text='') -%}"
    "{%- for part in message['content'] -%}"
    "{%- set turn.text = turn.text"
    " + ('<image>\n' if part['type'] == 'image' else part['text']) -%}"
    "{%- endfor -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=turn.text)] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)


def compose_model(compose: Compose, seed: int, output: Path) -> dict[str, Any]:
    """Write a LLaVA checkpoint in float32 that the Auto classes load.

    Args:
        compose: hub ids in the local cache, or folders.
        seed: of the projector's random weights.
        output: folder of the checkpoint.

    Raises:
        UsageError: a part is not on this machine, is not a vision encoder or a language model, or
            the language model has no chat template that can be used.
    """
    import torch
    from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration

    vision, images = _vision(model_folder(compose.vision, compose.vision_revision), compose)
    language, tokenizer = _language(model_folder(compose.language, compose.language_revision))
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.chat_template = _template(tokenizer, compose)
    _make_room(language, len(tokenizer))
    further = _tokens_beside_patches(vision)
    processor = _processor(vision, images, tokenizer, further)
    configuration = LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=_visual_tokens(processor),
        vision_feature_layer=compose.feature_layer,
        vision_feature_select_strategy="default" if further else "full",
        tie_word_embeddings=bool(language.config.tie_word_embeddings),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration._from_config(configuration, dtype=torch.float32)
    model.model.vision_tower.load_state_dict(vision.state_dict())
    model.model.language_model.load_state_dict(language.base_model.state_dict())
    model.lm_head.load_state_dict(language.get_output_embeddings().state_dict())
    model.generation_config = GenerationConfig(
        eos_token_id=language.generation_config.eos_token_id or tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    new = sum(p.numel() for p in model.model.multi_modal_projector.parameters())
    total = sum(p.numel() for p in model.parameters())
    return {
        "parameters": total,
        "inherited_parameters": total - new,
        "new_parameters": new,
        "visual_tokens": configuration.image_seq_length,
    }


def _vision(folder: Path, compose: Compose) -> tuple[Any, Any]:
    """The encoder's vision half, and its image processor without cropping."""
    import torch
    from transformers import AutoConfig, AutoImageProcessor, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    options: dict[str, Any] = {"local_files_only": True}
    try:
        configuration = AutoConfig.from_pretrained(folder, **options)
        configuration = getattr(configuration, "vision_config", configuration)
        with torch.device("meta"):
            kind = type(AutoModel.from_config(configuration))
        model, report = kind.from_pretrained(
            folder,
            config=configuration,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
        images = AutoImageProcessor.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"cannot be loaded ({error})", where=compose.vision) from error
    if not hasattr(configuration, "patch_size") or report["missing_keys"]:
        raise UsageError(
            "is not a vision transformer that can be composed",
            where=compose.vision,
            mend="use one such as SigLIP, CLIP or DINOv2",
        )
    if getattr(images, "do_center_crop", False):
        # What lies outside a centre crop would never be seen; the whole picture is squeezed.
        images.size, images.do_center_crop = images.crop_size, False
    return model, images


def _language(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"cannot be loaded ({error})", where=str(folder)) from error
    return model, tokenizer


def _make_room(language: Any, tokens: int) -> None:
    """Rows for added tokens, each the mean of the others, where no spare rows are there."""
    import torch

    rows = language.get_input_embeddings().weight.shape[0]
    if tokens <= rows:
        return
    language.resize_token_embeddings(tokens, mean_resizing=False)
    with torch.no_grad():
        for table in (language.get_input_embeddings(), language.get_output_embeddings()):
            table.weight[rows:] = table.weight[:rows].mean(0)


def _tokens_beside_patches(vision: Any) -> int:
    """Class and register tokens that stand before the patches."""
    if "siglip" in vision.config.model_type:
        return 0
    return 1 + (getattr(vision.config, "num_register_tokens", None) or 0)


def _processor(vision: Any, images: Any, tokenizer: Any, further: int) -> Any:
    from transformers import LlavaProcessor

    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=vision.config.patch_size,
        vision_feature_select_strategy="default" if further else "full",
        num_additional_image_tokens=further,
        image_token=IMAGE_TOKEN,
        chat_template=tokenizer.chat_template,
    )


def _visual_tokens(processor: Any) -> int:
    from PIL import Image

    example = processor(text=[IMAGE_TOKEN], images=[[Image.new("RGB", (64, 64))]])
    return example["input_ids"][0].count(processor.image_token_id)


def _template(tokenizer: Any, compose: Compose) -> str:
    """The given or the language model's own template, made to show pictures if it does not."""
    own = compose.chat_template or tokenizer.chat_template
    if not own:
        raise UsageError(
            "the language model has no chat template",
            where=compose.language,
            mend="use its instruction-tuned version, or set compose.chat_template",
        )
    for template in (own, _FLATTEN_PARTS + own):
        if _shows_parts(tokenizer, template):
            return template
    raise UsageError(
        "the chat template does not show the text and pictures of a message",
        where=compose.language,
        mend="set compose.chat_template to one that does",
    )


def _shows_parts(tokenizer: Any, template: str) -> bool:
    from jinja2 import TemplateError

    parts = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], chat_template=template, tokenize=False
        )
    except (TemplateError, TypeError, ValueError):
        return False
    return text.count(IMAGE_TOKEN) == 1 and _QUESTION in text and "'type'" not in text
