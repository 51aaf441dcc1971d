"""Several caches of teacher signals as one: each sample is in one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from limbeck.errors import DataError
from limbeck.records import Dense, TeacherSignal, TopK
from limbeck.signals import SignalSource


class JoinedSignals:
    """A `SignalSource` that asks the cache which holds a sample.

    All caches hold signals of one kind over one vocabulary, top-k ones with the same k and
    temperatures.

    Args:
        sources: by sample id.
    """

    def __init__(self, sources: Mapping[str, SignalSource]) -> None:
        self._sources = dict(sources)

    def signal(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> TeacherSignal:
        """The signals of several samples, rows in the order of the samples.

        Raises:
            DataError: a sample is in no cache, or was scored on another answer.
        """
        if missing := [i for i in sample_ids if i not in self._sources]:
            raise DataError("no cache holds signals of this sample", where=missing[0])
        pairs = zip(sample_ids, answers, strict=True)
        runs = [list(run) for _, run in groupby(pairs, key=lambda pair: id(self._sources[pair[0]]))]
        found = [
            self._sources[run[0][0]].signal([i for i, _ in run], [a for _, a in run])
            for run in runs
        ]
        return found[0] if len(found) == 1 else _concatenated(found)


def _concatenated(signals: Sequence[TeacherSignal]) -> TeacherSignal:
    import torch

    if dense := [one for one in signals if isinstance(one, Dense)]:
        assert len(dense) == len(signals)
        return Dense(torch.cat([one.logits_NV for one in dense]))
    kept = [one for one in signals if isinstance(one, TopK)]
    assert len(kept) == len(signals)
    tails = [one.log_tails_NT for one in kept if one.log_tails_NT is not None]
    assert len(tails) in (0, len(kept))
    assert len({one.temperatures for one in kept}) == 1
    return TopK(
        torch.cat([one.ids_NK for one in kept]),
        torch.cat([one.logp_NK for one in kept]),
        torch.cat([one.log_sums_NT for one in kept]),
        kept[0].temperatures,
        torch.cat(tails) if tails else None,
    )
