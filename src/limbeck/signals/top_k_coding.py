"""The cache of `signal: top_k`: ids and log-probabilities of the k most probable tokens.

    ids         [M, B] uint8      in increasing order, by Elias-Fano
    codes       [M, K] uint8      log-probabilities in the order of the ids, see probability_code.py
    ranges      [M] uint8         distance of level 254 from the best token
    log_tails   [M, T] float16    log of the mass that was not kept, at T = 1 and the temperatures

Parameters: kept, which is K, and universe, which every id of the shard is below.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import TeacherError, UsageError
from limbeck.records import TopK
from limbeck.signals import elias_fano, probability_code
from limbeck.signals.coding import Arrays
from limbeck.signals.shard import MAX_VOCABULARY, TOKEN_BYTES, Shard

FORMAT = "limbeck-top-k-2"


class TopKCoding:
    """Keeps `k` tokens a row, at most, exact at `temperatures`; a `Coding` of `TopK` signals."""

    format = FORMAT

    def __init__(self, k: int, temperatures: Sequence[float]) -> None:
        self.k = k
        self.temperatures = tuple(float(t) for t in temperatures)
        self.key: dict[str, Any] = {"top_k": k, "temperatures": self.temperatures}
        self._stored = stored_temperatures(self.temperatures)
        self._width: int | None = None

    def adopt(self, shard: Shard) -> None:
        """Rows of one cache keep equally many tokens."""
        self._width = shard.parameters["kept"]

    def arrays(self, sample_id: str, signal: TopK) -> Arrays:
        """Ids, log-probabilities and log-tails of one sample, ids in increasing order.

        Raises:
            UsageError: k or temperatures are not the cache's.
            TeacherError: the signal holds what cannot be log-probabilities of different tokens.
        """
        if tuple(signal.temperatures) != self.temperatures:
            raise UsageError(
                f"the signal has temperatures {signal.temperatures}, the cache {self.temperatures}",
                where=sample_id,
            )
        ids = plain_array(signal.ids_NK).astype(np.int64)
        logp = plain_array(signal.logp_NK)
        log_sums = plain_array(signal.log_sums_NT)
        width = ids.shape[1]
        if width > self.k or width != (self._width or width):
            raise UsageError(
                f"the signal keeps {width} tokens, the cache {self._width or self.k}",
                where=sample_id,
            )
        order = np.argsort(ids, axis=1)
        ids, logp = (np.take_along_axis(array, order, axis=1) for array in (ids, logp))
        distinct = (np.diff(ids, axis=1) > 0).all() and (ids >= 0).all()
        finite = np.isfinite(log_sums).all() and np.isfinite(logp.max(axis=1)).all()
        if not (distinct and finite and (logp <= 1e-3).all() and (ids < MAX_VOCABULARY).all()):
            raise TeacherError(
                "the teacher's signal is not made of log-probabilities of different tokens",
                where=sample_id,
                mend="make it with limbeck.signals.top_k.from_logits",
            )
        self._width = width
        return {"ids": ids, "logp": logp, "log_tails": self._log_tails(signal, logp, log_sums)}

    def encode(self, joined: Arrays, answer_ids: Sequence[int]) -> tuple[Arrays, dict[str, Any]]:
        """The arrays that the head of this module lists."""
        kept, universe = joined["ids"].shape[1], int(joined["ids"].max()) + 1
        codes, ranges, log_tails = probability_code.encode(
            joined["logp"], joined["log_tails"], self._stored
        )
        ids = elias_fano.encode(joined["ids"], universe)
        arrays = {"ids": ids, "codes": codes, "ranges": ranges, "log_tails": log_tails}
        return arrays, {"kept": kept, "universe": universe}

    def statistics(self, shards: Sequence[Shard]) -> dict[str, Any]:
        """Means over all answer tokens.

        Returns:
            tail_mass: for each temperature the mass that was not kept; entropy_nats: at T = 1 with
            the tail taken as one token, so a lower bound; agreement: share of tokens that the
            teacher finds most probable itself (with greedy decoding it is 1, ties counted as
            agreement).
        """
        tail, entropy, agreed, tokens = np.zeros(len(self._stored)), 0.0, 0, 0
        for shard in shards:
            rows = slice(0, shard.tokens)
            ids, logp, _ = decode_rows(shard, rows, self._stored)
            log_tails = shard.arrays["log_tails"].astype(np.float64)
            tail += np.exp(log_tails).sum(axis=0)
            entropy += entropies(logp, log_tails[:, 0]).sum()
            agreed += int(agreement(ids, logp, shard.answer_ids(rows)).sum())
            tokens += shard.tokens
        mean = tail / max(tokens, 1)
        return {
            "tail_mass": {f"{t:g}": float(mean[self._stored.index(t)]) for t in self.temperatures},
            "entropy_nats": float(entropy / max(tokens, 1)),
            "agreement": agreed / max(tokens, 1),
        }

    def finish(self, folder: Path) -> list[Path]:
        """Every shard is whole by itself."""
        return []

    def _log_tails(
        self, signal: TopK, logp: NDArray[Any], log_sums: NDArray[Any]
    ) -> NDArray[np.float64]:
        """[N, T]; from 1 - (the kept mass), as exact as that is, where the signal has no tails."""
        exact = None if signal.log_tails_NT is None else plain_array(signal.log_tails_NT)
        columns: list[NDArray[np.float64]] = []
        for temperature in self._stored:
            if temperature in self.temperatures:
                at = self.temperatures.index(temperature)
                if exact is not None:
                    columns.append(exact[:, at])
                    continue
                kept = np.exp(logp / temperature - log_sums[:, at : at + 1]).sum(axis=1)
            else:
                kept = np.exp(logp).sum(axis=1)
            with np.errstate(divide="ignore"):
                columns.append(np.log(np.clip(1 - kept, 0, 1)))
        return np.stack(columns, axis=1)


def stored_temperatures(temperatures: Sequence[float]) -> tuple[float, ...]:
    """Those whose tails a shard holds: T = 1 first, always."""
    return (1.0, *(t for t in temperatures if t != 1))


def bytes_per_token(k: int, vocabulary: int, temperatures: Sequence[float]) -> int:
    """What a row takes in a shard, with the token that it predicts."""
    kept = min(k, vocabulary)
    tails = 2 * len(stored_temperatures(temperatures))
    return elias_fano.row_bytes(kept, vocabulary) + kept + 1 + tails + TOKEN_BYTES


def decode_rows(
    shard: Shard, rows: slice, stored: Sequence[float]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Ids [N, K], log-probabilities at T = 1 [N, K] and log-sums [N, stored T]."""
    arrays, parameters = shard.arrays, shard.parameters
    ids = elias_fano.decode(arrays["ids"][rows], parameters["kept"], parameters["universe"])
    logp, log_sums = probability_code.decode(
        arrays["codes"][rows], arrays["ranges"][rows], arrays["log_tails"][rows], stored
    )
    return ids, logp, log_sums


def agreement(
    ids_NK: NDArray[Any], logp_NK: NDArray[Any], answer_ids_N: NDArray[Any]
) -> NDArray[np.bool_]:
    """For each row whether no token is more probable to the teacher than the answer's."""
    best = logp_NK == logp_NK.max(axis=1, keepdims=True)
    return (best & (ids_NK == answer_ids_N[:, None])).any(axis=1)


def entropies(logp_NK: NDArray[Any], log_tails_N: NDArray[Any]) -> NDArray[np.float64]:
    """Of each row at T = 1, in nats, with the tail taken as one token."""
    both = np.concatenate([logp_NK, log_tails_N[:, None]], axis=1).astype(np.float64)
    finite = np.where(np.isneginf(both), 0, both)  # 0 log 0 = 0
    return -(np.exp(both) * finite).sum(axis=1)


def plain_array(tensor: Any) -> NDArray[np.float64]:
    """A tensor as float64, whatever its type; integers of a vocabulary are exact in it."""
    return tensor.detach().cpu().double().numpy()
