"""Worker processes that prepare batches ahead of a model: the same batches, in the same order.

Preparing draws no random numbers, and starting the processes takes none from the generators that
training draws from, so that a run with workers is the run without.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from limbeck.errors import LimbeckError

BATCHES_AHEAD = 2
"""For each worker: enough that the model never waits, few enough that pictures fit in memory."""

Asked = TypeVar("Asked")
Made = TypeVar("Made")


def prepared(
    prepare: Callable[[Asked], Made],
    batches: Iterable[Asked],
    *,
    workers: int,
    pin_memory: bool = False,
) -> Generator[Made]:
    """What `prepare` makes of each batch, in turn.

    Args:
        prepare: must be picklable where processes are not forked.
        batches: read as far ahead as workers need it.
        workers: processes; 0 prepares in this one, when the batch is asked for.
        pin_memory: of results with a method `pin_memory`, for copies to a GPU that do not wait.

    Raises:
        LimbeckError: what `prepare` raised, wherever it ran.
    """
    if workers == 0:
        yield from map(prepare, batches)
        return
    import torch
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        _Prepared(prepare),  # pyright: ignore[reportArgumentType]
        sampler=batches,  # pyright: ignore[reportArgumentType]
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        prefetch_factor=BATCHES_AHEAD,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )
    for made in loader:
        if isinstance(made, _Failure):
            raise made.error
        yield made


@dataclass(frozen=True)
class _Failure:
    """The loader itself would raise another error, with a traceback for its message."""

    error: LimbeckError


@dataclass(frozen=True)
class _Prepared:
    prepare: Callable[[Any], Any]

    def __getitem__(self, batch: Any) -> Any:
        try:
            return self.prepare(batch)
        except LimbeckError as error:
            return _Failure(error)


def _as_it_is(made: Any) -> Any:
    return made
