"""One vector for a sample's pictures: the vision tower's features, averaged over patches."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from limbeck.data.tokens import Encoded, collate
from limbeck.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.models.load import LoadedModel


def image_embedding(loaded: LoadedModel, item: Encoded) -> Tensor:
    """The tower's features before the projector, the mean over all patches of all pictures: [H].

    Float32 on the CPU. The language model does not run.

    Args:
        loaded: any model whose family has a vision tower and a projector.
        item: a sample with pictures.

    Raises:
        UsageError: this family's tower cannot be run by itself.
    """
    import torch

    base = loaded.base
    encode = getattr(base.base_model, "get_image_features", None)
    projector = loaded.family.parts(base).get("projector")
    seen: list[Tensor] = []

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else next(iter(kwargs.values())))

    if encode is not None and projector:
        names = set(inspect.signature(encode).parameters)
        batch = collate([item], pad_id=loaded.encoder.pad_id, side="right")
        given = {name: tensor for name, tensor in batch.inputs.items() if name in names}
        hook = base.get_submodule(projector[0]).register_forward_pre_hook(note, with_kwargs=True)
        try:
            with torch.inference_mode():
                encode(**loaded.place(given), return_dict=True)
        finally:
            hook.remove()
    if not seen:
        raise UsageError(
            f"the vision tower of models of type {base.config.model_type} cannot be run by itself",
            where="evaluate.neighbour_features",
            mend="choose the other model, or leave nearest_neighbour out of evaluate.models",
        )
    rows = torch.cat([features.reshape(-1, features.shape[-1]) for features in seen])
    return rows.float().mean(0).cpu()
