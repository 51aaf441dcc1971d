"""Batched generation: left padding, greedy or sampled with a seed, prompts never returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limbeck.data.packing import grouped, is_shared
from limbeck.data.tokens import Encoded, collate
from limbeck.models.shared_prefix import prefilled

if TYPE_CHECKING:
    from torch import Tensor

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
    share_prefix: bool = False,
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
        share_prefix: neighbours on the same pictures whose prompts begin alike have the beginning
            computed once; for models of which `why_not_continued` has nothing to say.
    """
    ends = _end_ids(loaded)
    sampling = temperature > 0
    configuration = _plain_configuration(
        eos_token_id=ends,
        pad_token_id=loaded.encoder.pad_id,
        max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens,
        **({"do_sample": True, "temperature": temperature, "top_k": 0} if sampling else {}),
    )
    rows, prompt_tokens = _run(loaded, items, configuration, seed, share_prefix)
    return [_answer(loaded, row, ends) for row in rows[:, prompt_tokens:].tolist()]


def first_logits(
    loaded: LoadedModel, items: Sequence[Encoded], *, share_prefix: bool, steps: int = 2
) -> Tensor:
    """The logits [steps, B, R] of the first steps of greedy decoding."""
    import torch

    configuration = _plain_configuration(
        eos_token_id=_end_ids(loaded),
        pad_token_id=loaded.encoder.pad_id,
        max_new_tokens=steps,
        min_new_tokens=steps,
        return_dict_in_generate=True,
        output_logits=True,
    )
    output, _ = _run(loaded, items, configuration, 0, share_prefix)
    return torch.stack(output.logits)


def _run(
    loaded: LoadedModel,
    items: Sequence[Encoded],
    configuration: Any,
    seed: int,
    share_prefix: bool,
) -> tuple[Any, int]:
    """What transformers' `generate` returns, and how many tokens of its rows are the prompt."""
    import torch

    prompts = [item.without_answer() for item in items]
    training = loaded.model.training
    loaded.model.eval()
    cuda = [torch.device(loaded.device)] if loaded.device.startswith("cuda") else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cuda), _own(loaded, configuration):
            torch.manual_seed(seed)
            inputs = _inputs(loaded, prompts, share_prefix)
            return loaded.base.generate(**inputs), inputs["input_ids"].shape[1]
    finally:
        loaded.model.train(training)


def _inputs(loaded: LoadedModel, prompts: list[Encoded], share_prefix: bool) -> dict[str, Any]:
    groups = grouped(prompts, loaded.encoder.image_token_id) if share_prefix else []
    if is_shared(groups) and all(group.shared for group in groups):
        return prefilled(loaded, groups)
    return loaded.place(collate(prompts, pad_id=loaded.encoder.pad_id, side="left").inputs)


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
