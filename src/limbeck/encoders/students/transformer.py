"""The module of the student `vit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from limbeck.encoders.students import ImageInputs, TeacherShape

if TYPE_CHECKING:
    from limbeck.encoders.students.vit import Vit


class VitTower(nn.Module):
    """The class token through a projection; the map is the last layer's, from that token."""

    def __init__(self, options: Vit, shape: TeacherShape) -> None:
        from transformers import ViTConfig, ViTModel

        super().__init__()
        config = ViTConfig(
            hidden_size=options.hidden_size,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            intermediate_size=4 * options.hidden_size,
            image_size=options.image_size,
            patch_size=options.patch_size,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        config._attn_implementation = "eager"
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.head = nn.Linear(options.hidden_size, options.embedding)
        self.side, self.grid = options.image_size, shape.grid

    def forward(self, inputs: ImageInputs) -> tuple[Tensor, Tensor]:
        """As the class says."""
        pixels = inputs.pixels
        assert pixels is not None
        if pixels.shape[-1] != self.side:
            size = (self.side, self.side)
            pixels = interpolate(pixels, size, mode="bicubic", antialias=True)
        made = self.vit(pixels, output_attentions=True)
        weights_BT = made.attentions[-1][:, :, 0, 1:].mean(1)
        own = round(weights_BT.shape[1] ** 0.5)
        shown = weights_BT.reshape(-1, 1, own, own)
        map_BG = adaptive_avg_pool2d(shown, (self.grid, self.grid)).flatten(1)
        return self.head(made.last_hidden_state[:, 0]), map_BG / map_BG.sum(1, keepdim=True)
