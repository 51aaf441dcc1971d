"""Batched generation: left padding, greedy or sampled with a seed, prompts never returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limbeck.data.tokens import Encoded, collate

if TYPE_CHECKING:
    from limbeck.models.load import LoadedModel


@dataclass(frozen=True)
class Generated:
    """One answer. `token_ids` end with the end token where the model `finished` by itself."""

    text: str
    token_ids: tuple[int, ...]
    finished: bool


def generate(
    loaded: LoadedModel,
    items: Sequence[Encoded],
    *,
    max_new_tokens: int,
    min_new_tokens: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Generated]:
    """Answers in the order of `items`; an answer that an item already has is not shown.

    Decoding is plain: whatever sampling or penalties the checkpoint's generation_config.json asks
    for are overruled, so that a greedy answer is the argmax of the distributions that are cached.

    Args:
        loaded: the model.
        items: encoded prompts.
        max_new_tokens: limit of an answer, with its end token.
        min_new_tokens: the end token is held back until then; equal to max for a fixed length.
        temperature: 0 decodes greedily; else the whole distribution is sampled at it.
        seed: of the sampling; the global random state is left as it was.
    """
    import torch

    prompts = [item.without_answer() for item in items]
    batch = collate(prompts, pad_id=loaded.encoder.pad_id, side="left")
    ends = _end_ids(loaded)
    sampling = temperature > 0
    configuration = _plain_configuration(
        eos_token_id=ends,
        pad_token_id=loaded.encoder.pad_id,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        **({"do_sample": True, "temperature": temperature, "top_k": 0} if sampling else {}),
    )
    training = loaded.model.training
    loaded.model.eval()
    cuda = [torch.device(loaded.device)] if loaded.device.startswith("cuda") else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda), _own(loaded, configuration):
            torch.manual_seed(seed)
            rows = loaded.base.generate(**loaded.place(batch.inputs))
    finally:
        loaded.model.train(training)
    new_rows = rows[:, batch.inputs["input_ids"].shape[1] :].tolist()
    return [_answer(loaded, row, ends) for row in new_rows]


def _answer(loaded: LoadedModel, row: list[int], ends: list[int]) -> Generated:
    stop = next((n for n, token in enumerate(row) if token in ends), None)
    body = row if stop is None else row[:stop]
    kept = row if stop is None else row[: stop + 1]
    return Generated(loaded.encoder.answer_text(body), tuple(kept), stop is not None)


def _end_ids(loaded: LoadedModel) -> list[int]:
    own = loaded.base.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [] if own is None else [own]
    return list(dict.fromkeys([*loaded.encoder.end_ids, *listed]))


def _plain_configuration(**values: Any) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(**values)


class _own:
    """For the time of a call, the model has our generation configuration and no other.

    Passing one as an argument would fill its gaps from the checkpoint's.
    """

    def __init__(self, loaded: LoadedModel, configuration: Any) -> None:
        self.model, self.configuration = loaded.base, configuration

    def __enter__(self) -> None:
        self.model.generation_config, self.configuration = (
            self.configuration,
            self.model.generation_config,
        )

    def __exit__(self, *_: object) -> None:
        self.model.generation_config = self.configuration
