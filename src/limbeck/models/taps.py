"""Reading a model's inner states while it runs: only those that are asked for, and nothing stays.

Hooks are there for the time of one forward pass. They sit outside of gradient checkpointing, on the
modules below any adapters, so that what they read has its graph; a finished model knows nothing of
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

from limbeck.errors import UsageError
from limbeck.models.layers import hidden_made, layers_of
from limbeck.records import IGNORED, Features, Grid, ModelShape, Tap

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.data.tokens import Batch
    from limbeck.models.load import LoadedModel

TOWER, PROJECTOR = "tower", "projector"


class Tapped:
    """What the taps gave in the last forward pass; see `tapped`."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._seen: dict[Tap, Tensor] = {}

    def note(self, tap: Tap, tensor: Tensor) -> None:
        """Called by the hooks."""
        self._seen[tap] = tensor

    def features(self, inputs: dict[str, Tensor], targets_BL: Tensor) -> Features:
        """One tensor a sample for each tap.

        Args:
            inputs: of the forward pass.
            targets_BL: IGNORED but at the positions that predict the answer.

        Raises:
            UsageError: a tap gave nothing.
        """
        import torch

        ids_BL = inputs["input_ids"].to(targets_BL.device)
        visual_BL = ids_BL == self._loaded.encoder.image_token_id
        real_BL = inputs["attention_mask"].to(targets_BL.device).bool()
        rows_BL = targets_BL != IGNORED
        counts = visual_BL.sum(-1).tolist()
        tensors: dict[Tap, tuple[Tensor, ...]] = {}
        for tap, seen in self._seen.items():
            if tap.kind == "hidden":
                tensors[tap] = tuple(h_LH[r_L] for h_LH, r_L in zip(seen, rows_BL, strict=True))
            elif tap.kind == "attention":
                keys_BL = visual_BL if tap.place == "vision" else real_BL & ~visual_BL
                tensors[tap] = tuple(
                    w_LL[r_L][:, k_L] for w_LL, r_L, k_L in zip(seen, rows_BL, keys_BL, strict=True)
                )
            elif tap.place == PROJECTOR:
                tensors[tap] = tuple(h_LH[v_L] for h_LH, v_L in zip(seen, visual_BL, strict=True))
            else:
                flat_TH = seen.reshape(-1, seen.shape[-1])
                whole = sum(counts)
                if whole and len(flat_TH) % whole:
                    raise _unknown_tower(self._loaded)
                each = len(flat_TH) // whole if whole else 0
                tensors[tap] = torch.split(flat_TH, [count * each for count in counts])
        return Features(tensors, self._grids(inputs, counts))

    def _grids(
        self, inputs: dict[str, Tensor], counts: Sequence[int]
    ) -> tuple[tuple[Grid, ...] | None, ...]:
        """The grids of each sample's pictures, by the numbers of their tokens."""
        grids = self._loaded.family.grids(self._loaded.base.config, inputs, sum(counts))
        if grids is None:
            return (None,) * len(counts)
        waiting = list(grids)
        found: list[tuple[Grid, ...]] = []
        for count in counts:
            own: list[Grid] = []
            while sum(map(prod, own)) < count:
                own.append(waiting.pop(0))
            found.append(tuple(own))
        return tuple(found)


@contextmanager
def tapped(loaded: LoadedModel, taps: Sequence[Tap]) -> Iterator[Tapped]:
    """Read `taps` of every forward pass within the context; the last one counts.

    Raises:
        UsageError: a layer that is not there, or attention weights that the model does not keep.
    """
    seen = Tapped(loaded)
    with ExitStack() as hooks:
        for tap in dict.fromkeys(taps):
            handle = _hook(loaded, tap, seen)
            hooks.callback(handle.remove)
        yield seen


def _hook(loaded: LoadedModel, tap: Tap, seen: Tapped) -> Any:
    family, base = loaded.family, loaded.base
    if tap.kind == "vision" and tap.place == PROJECTOR:
        (path,) = family.parts(base)["language_model"]

        def before(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            seen.note(tap, kwargs["inputs_embeds"])

        return base.get_submodule(path).register_forward_pre_hook(before, with_kwargs=True)
    if tap.kind == "vision":
        path = family.parts(base)["projector"][0]

        def given(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            seen.note(tap, args[0] if args else next(iter(kwargs.values())))

        return base.get_submodule(path).register_forward_pre_hook(given, with_kwargs=True)
    _, layers = layers_of(family, base, "language_model")
    number = tap.layer
    if not 0 <= number < len(layers):
        raise UsageError(f"the language model has {len(layers)} layers, none of number {number}")
    if tap.kind != "attention":

        def after(_: Any, __: Any, output: Any) -> None:
            seen.note(tap, hidden_made(output))

        return layers[number].register_forward_hook(after)
    if base.config.get_text_config()._attn_implementation != "eager":
        raise UsageError(
            "attention weights are kept by one kernel only",
            where="attention",
            mend="set attention: eager on student and teacher for losses that read them",
        )

    def weights(_: Any, __: Any, output: Any) -> None:
        seen.note(tap, output[1].mean(1))

    return layers[number].get_submodule("self_attn").register_forward_hook(weights)


def shape_of(configuration: Any) -> ModelShape:
    """Layers and widths of a model, by its configuration."""
    text, vision = configuration.get_text_config(), configuration.vision_config
    # Where a tower has both, `hidden_size` is the language model's (Qwen2-VL).
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    return ModelShape(text.num_hidden_layers, text.hidden_size, width)


def read_features(loaded: LoadedModel, batch: Batch, taps: Sequence[Tap]) -> Features:
    """What the taps give on a batch, without gradient, in the model's own precision."""
    import torch

    device_type = torch.device(loaded.device).type
    with torch.no_grad(), torch.autocast(device_type, enabled=False), tapped(loaded, taps) as seen:
        loaded.hidden_states(batch.inputs)
    return seen.features(batch.inputs, batch.targets_BL)


def _unknown_tower(loaded: LoadedModel) -> UsageError:
    return UsageError(
        f"the vision tower of a {loaded.base.config.model_type} has tokens of which no sample is"
        " known",
        where="losses: vision_features",
        mend="set at: projector",
    )
