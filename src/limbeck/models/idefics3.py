"""Idefics3: a SigLIP-like tower over tiles of the picture, pixels shuffled into fewer tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from limbeck.models.family import Family
from limbeck.models.llava import Llava
from limbeck.models.tokenizer import END_OF_TEXT, UNKNOWN
from limbeck.recipe.sections import Build
from limbeck.records import Grid

if TYPE_CHECKING:
    from torch import Tensor

SHUFFLE = 2
PATCHES_PER_SIDE = 4
END_OF_UTTERANCE = "<end_of_utterance>"
_TILES = range(1, 7)


class Idefics3(Family):
    """Checkpoints of `model_type: idefics3`."""

    model_type = "idefics3"
    paths: ClassVar = {
        "vision_tower": ("model.vision_model",),
        "projector": ("model.connector",),
        "language_model": ("model.text_model",),
    }
    special_tokens = (
        END_OF_TEXT,
        "<|im_start|>",
        END_OF_UTTERANCE,
        "<image>",
        "<fake_token_around_image>",
        "<global-img>",
        *(f"<row_{r}_col_{c}>" for r in _TILES for c in _TILES),
        UNKNOWN,
    )
    causal = True
    end_of_turn = END_OF_UTTERANCE
    template = (
        "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
        "{% endfor %}" + END_OF_UTTERANCE + "\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    prefix: ClassVar[str] = "Idefics3"
    """Of the names of its classes in transformers."""

    def configuration(self, build: Build, tokenizer: Any) -> Any:
        """The language model is a Llama."""
        import transformers

        side = build.patch_size * PATCHES_PER_SIDE
        return getattr(transformers, f"{self.prefix}Config")(
            vision_config={
                "hidden_size": build.vision_hidden_size,
                "intermediate_size": build.vision_hidden_size * 4,
                "num_hidden_layers": build.vision_layers,
                "num_attention_heads": build.vision_heads,
                "patch_size": build.patch_size,
                "image_size": side,
            },
            text_config=Llava().text_configuration(build, tokenizer, "llama"),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            scale_factor=SHUFFLE,
            tie_word_embeddings=True,
        )

    def grids(
        self, configuration: Any, inputs: Mapping[str, Tensor], visual_tokens: int
    ) -> list[Grid] | None:
        """Every tile is one square of as many tokens."""
        vision = configuration.vision_config
        side = vision.image_size // vision.patch_size // configuration.scale_factor
        tiles, rest = divmod(visual_tokens, side**2)
        return None if rest else [(1, side, side)] * tiles

    def processor(self, build: Build, tokenizer: Any) -> Any:
        """At most 2x2 tiles and the whole picture beside them."""
        import transformers

        side = build.patch_size * PATCHES_PER_SIDE
        images = getattr(transformers, f"{self.prefix}ImageProcessor")(
            size={"longest_edge": 2 * side},
            max_image_size={"longest_edge": side},
            image_mean=[build.image_mean] * 3,
            image_std=[build.image_std] * 3,
        )
        return getattr(transformers, f"{self.prefix}Processor")(
            images,
            tokenizer,
            image_seq_len=(PATCHES_PER_SIDE // SHUFFLE) ** 2,
            chat_template=tokenizer.chat_template,
            **self.further_processors(images),
        )

    def further_processors(self, images: Any) -> dict[str, Any]:
        """What the processor has beside pictures and text."""
        return {}


FAMILY = Idefics3()
