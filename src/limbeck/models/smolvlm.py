"""SmolVLM: as Idefics3, with videos. Its processor needs the package num2words."""

from __future__ import annotations

from typing import Any

from limbeck.models.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """Checkpoints of `model_type: smolvlm`."""

    model_type = "smolvlm"
    prefix = "SmolVLM"

    def further_processors(self, images: Any) -> dict[str, Any]:
        """Videos in the pictures' size."""
        from transformers import SmolVLMVideoProcessor

        video = SmolVLMVideoProcessor(
            size=dict(images.size), max_image_size=dict(images.max_image_size)
        )
        return {"video_processor": video}


FAMILY = SmolVLM()
