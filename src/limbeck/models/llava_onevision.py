"""LLaVA-OneVision: as LLaVA-NeXT, with a SigLIP vision tower and a Qwen2 language model."""

from __future__ import annotations

from typing import Any

from limbeck.models.llava import IMAGE_TOKEN, Llava
from limbeck.models.llava_next import LlavaNext
from limbeck.recipe.sections import Build

VIDEO_TOKEN = "<video>"
ASPECT_RATIO = "anyres_max_9"


class LlavaOnevision(LlavaNext):
    """Checkpoints of `model_type: llava_onevision`."""

    model_type = "llava_onevision"
    special_tokens = (*Llava.special_tokens, VIDEO_TOKEN)

    def configuration(self, build: Build, tokenizer: Any) -> Any:
        """There is no class token, and features are those of the last layer."""
        from transformers import LlavaOnevisionConfig

        vision = self.vision_configuration(build, "siglip_vision_model")
        return LlavaOnevisionConfig(
            vision_config={**vision, "vision_use_head": False},
            text_config=self.text_configuration(build, tokenizer, "qwen2"),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            video_token_index=tokenizer.convert_tokens_to_ids(VIDEO_TOKEN),
            image_grid_pinpoints=self.resolutions(build),
            vision_aspect_ratio=ASPECT_RATIO,
            tie_word_embeddings=True,
        )

    def processor(self, build: Build, tokenizer: Any) -> Any:
        """Pictures and videos share size and normalisation."""
        import transformers

        side = self.side(build)
        options = self.image_options(build)
        options.update(size={"height": side, "width": side}, crop_size=None)
        pinpoints = self.resolutions(build)
        return transformers.LlavaOnevisionProcessor(
            transformers.LlavaOnevisionImageProcessor(image_grid_pinpoints=pinpoints, **options),
            tokenizer,
            transformers.LlavaOnevisionVideoProcessor(**options),
            num_image_tokens=self.patches_per_side**2,
            vision_feature_select_strategy="full",
            image_token=IMAGE_TOKEN,
            video_token=VIDEO_TOKEN,
            vision_aspect_ratio=ASPECT_RATIO,
            chat_template=tokenizer.chat_template,
        )


FAMILY = LlavaOnevision()
