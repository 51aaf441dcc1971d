"""Teachers, one a file: transformers' own classes by name or folder, or tiny ones for tests.

Shapes: B pictures, T patches, D the width of the embedding, M texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from limbeck.errors import UsageError
from limbeck.recipe.component import Component, Section, Seed

if TYPE_CHECKING:
    from torch import Tensor


class TinyTeacher(Section):
    """A tiny model of the real class, trained on the data set's labels or captions first."""

    width: int = Field(64, gt=0, description="of the embedding and of the layers")
    layers: int = Field(2, gt=0)
    heads: int = Field(4, gt=0)
    image_size: int = Field(32, gt=0, description="pixels of a side")
    patch_size: int = Field(8, gt=0, description="pixels of a side")
    epochs: int = Field(20, ge=0, description="of training; 0: random weights")
    batch_size: int = Field(64, gt=1)
    learning_rate: float = Field(1e-3, gt=0)
    seed: Seed = 0

    @property
    def transformer(self) -> dict[str, int]:
        """Sizes of a tower, as most configurations of transformers call them."""
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
        }

    @property
    def feed_forward(self) -> dict[str, int]:
        """Width of the feed-forward layers, where it is given as such."""
        return {"intermediate_size": 4 * self.width}

    @property
    def pictures(self) -> dict[str, int]:
        """What a tower looks at."""
        return {"image_size": self.image_size, "patch_size": self.patch_size}

    def words(self, tokenizer: Any) -> dict[str, int]:
        """What a text tower reads."""
        return {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 64,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }


@dataclass(frozen=True)
class ImageFeatures:
    """What a teacher makes of pictures; the attention is the last layer's, from the class token."""

    embedding_BD: Tensor
    tokens_BTD: Tensor
    attention_BT: Tensor


class EncoderTeacher(Component):
    """Base of every teacher."""

    reads_text: ClassVar[bool]
    architecture: ClassVar[str]
    """The class of transformers that loads a folder."""

    model: str | None = Field(None, description="hub id or a folder that from_pretrained loads")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    build: TinyTeacher | None = Field(None, description="a tiny one in place of `model`")
    image_size: int | None = Field(None, gt=0, description="pixels of a side; default: its own")
    batch_size: int = Field(32, gt=0, description="pictures at once")
    grid: int = Field(4, gt=0, description="patch features are kept as the means of this squared")

    @model_validator(mode="after")
    def _one_origin(self) -> EncoderTeacher:
        if (self.model is None) == (self.build is None):
            raise UsageError("needs exactly one of model and build")
        return self

    def new_model(self, sizes: TinyTeacher, tokenizer: Any) -> Any:
        """A model of the real class with random weights."""
        raise NotImplementedError

    def load_model(self, folder: Path) -> Any:
        """The model of a folder, with the kernel that shows where it looks."""
        import transformers

        return getattr(transformers, self.architecture).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, attn_implementation="eager"
        )

    def look(self, model: Any, pixels: Tensor) -> ImageFeatures:
        """Features of normalised pixels [B, 3, S, S]."""
        raise NotImplementedError

    def image_side(self, model: Any) -> list[Any]:
        """The modules that run for a picture."""
        return [model]

    def read(self, model: Any, tokens: Any) -> Tensor:
        """Vectors [M, D] of tokenised texts."""
        raise NotImplementedError


def from_class_token(weights: Any, patches: int) -> Tensor:
    """The last layer's attention from the class token to the patches, heads averaged."""
    rows_BT = weights[-1][:, :, 0, -patches:].mean(1)
    return rows_BT / rows_BT.sum(1, keepdim=True)
