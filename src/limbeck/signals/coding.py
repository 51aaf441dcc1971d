"""What a kind of signal must supply to be cached; `SignalWriter` and the readers do the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from limbeck.signals.shard import Shard

Arrays = dict[str, NDArray[Any]]
Signal = TypeVar("Signal", contravariant=True)


class Coding(Protocol[Signal]):
    """Turns the signals of samples into the arrays of a shard.

    `format` is the name with its version that every shard bears. `key` is what the coding adds to
    the cache's global key.
    """

    format: str
    key: dict[str, Any]

    def adopt(self, shard: Shard) -> None:
        """Take over what all shards must have in common from one that is there already."""
        ...

    def arrays(self, sample_id: str, signal: Signal) -> Arrays:
        """One sample's signal as arrays with a row for each answer token.

        Raises:
            UsageError: the signal does not fit the cache.
            TeacherError: the signal holds what the teacher cannot mean.
        """
        ...

    def encode(self, joined: Arrays, answer_ids: Sequence[int]) -> tuple[Arrays, dict[str, Any]]:
        """The arrays of a shard and its parameters, from all rows of its samples."""
        ...

    def statistics(self, shards: Sequence[Shard]) -> dict[str, Any]:
        """What the cache is like, beside its sizes."""
        ...

    def finish(self, folder: Path) -> list[Path]:
        """Write what the shards share, if anything; called before the index is written."""
        ...
