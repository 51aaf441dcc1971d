"""Which layers of a model are targets of verbalised distillation."""

from __future__ import annotations

from limbeck.errors import UsageError

Targets = int | tuple[int, ...]
"""Every so many-th layer, or their numbers from 0."""


def targets(wanted: Targets, total: int) -> list[int]:
    """Numbers of target layers: every so many-th (every 4th of 28 is 2, 6, ... 26), or a list.

    Raises:
        UsageError: a layer that is not there, or none.
    """
    found = list(range(wanted // 2, total, wanted)) if isinstance(wanted, int) else list(wanted)
    if not found or found[-1] >= total or found != sorted(set(found)):
        raise UsageError(
            f"{wanted} does not name layers of a model that has {total}",
            where="losses: target layers",
            mend=f"list increasing numbers from 0 to {total - 1}, or give a smaller step",
        )
    return found
