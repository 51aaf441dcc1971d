"""The cache of `signal: hidden`: what the teacher's head read, in one byte a channel.

    hidden    [M, H] int8      in steps of the channel's scale
    kl_nats   [M] float32      KL(teacher || teacher from this row), T = 1, measured when written
    entropy   [M] float32      of the teacher, in nats
    agreed    [M] uint8        whether no token is more probable to the teacher than the answer's

Parameters: scales, the H scales as hexadecimal float32. They are set by the first rows that are
written, with headroom, and stay. There is one a channel, because some channels of a language model
are a hundred times larger than others. The head's weights are stored once (`head.py`); any
temperature can be asked of logits = hidden @ weights.T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import TeacherError, UsageError
from limbeck.signals.coding import Arrays
from limbeck.signals.head import logits, stored_weights, write_head
from limbeck.signals.shard import TOKEN_BYTES, Shard

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "limbeck-hidden-1"
LARGEST = 127
FORESEEN_ROWS = 10**6
"""The largest of so many values is what scales allow for; beyond it values are clipped."""

ROWS_AT_ONCE = 64
"""Rows whose logits exist at one time while the coding is verified."""

LOGIT_TOLERANCE = {2: 0.05, 4: 1e-4, 8: 1e-4}
"""By bytes of a weight: share of the largest logit by which equal computations may differ."""

MAX_KL_NATS = 0.005
"""Mean over a shard above which the coding is not faithful to this teacher."""


@dataclass(frozen=True)
class HiddenStates:
    """What the teacher's head read, and the logits [N, V] that the teacher made of it."""

    hidden_NH: Tensor
    logits_NV: Tensor


class HiddenCoding:
    """A `Coding` of `HiddenStates`.

    Args:
        weight_VH: the head over the shared vocabulary, as the teacher computes with it.
    """

    format = FORMAT

    def __init__(self, weight_VH: Tensor) -> None:
        self.key: dict[str, Any] = {"signal": "hidden", "vocabulary": weight_VH.shape[0]}
        self._weight_VH = weight_VH
        self._scales: NDArray[np.float32] | None = None

    def adopt(self, shard: Shard) -> None:
        """Scales stay what the first rows made them."""
        self._scales = scales_of(shard)

    def arrays(self, sample_id: str, signal: HiddenStates) -> Arrays:
        """Hidden states as float32.

        Raises:
            UsageError: their width is not the head's.
            TeacherError: they are not finite, or the teacher makes other logits of them.
        """
        hidden = signal.hidden_NH.detach().float().cpu().numpy()
        if hidden.ndim != 2 or hidden.shape[1] != self._weight_VH.shape[1]:
            raise UsageError(
                f"hidden states of shape {hidden.shape} do not fit a head of width "
                f"{self._weight_VH.shape[1]}",
                where=sample_id,
            )
        if not np.isfinite(hidden).all():
            raise TeacherError(
                "the teacher's hidden states are not finite",
                where=sample_id,
                mend="load it in bfloat16 or float32 instead of float16, or without quantization",
            )
        self._require_plain_head(sample_id, signal)
        return {"hidden": hidden}

    def encode(self, joined: Arrays, answer_ids: Sequence[int]) -> tuple[Arrays, dict[str, Any]]:
        """The arrays that the head of this module lists.

        Raises:
            TeacherError: what the codes give is not the teacher's distribution any more.
        """
        hidden = joined["hidden"]
        if self._scales is None:
            # The largest of n values of a normal distribution grows with sqrt(log n).
            seen = max(len(hidden), 2)
            headroom = math.sqrt(max(1.0, math.log(FORESEEN_ROWS) / math.log(seen)))
            steps = np.abs(hidden).max(axis=0) * (headroom / LARGEST)
            self._scales = np.where(steps > 0, steps, 1).astype(np.float32)
        codes = np.clip(np.rint(hidden / self._scales), -LARGEST, LARGEST).astype(np.int8)
        measured = self._measure(hidden, codes * self._scales, answer_ids)
        mean = float(measured["kl_nats"].mean())
        if not mean <= MAX_KL_NATS:
            raise TeacherError(
                f"int8 hidden states change this teacher's distributions by {mean:.2g} nats in the "
                f"mean, more than {MAX_KL_NATS:g}",
                where="label.signal",
                mend="set label.signal to top_k or live",
            )
        return {"hidden": codes, **measured}, {"scales": self._scales.astype("<f4").tobytes().hex()}

    def statistics(self, shards: Sequence[Shard]) -> dict[str, Any]:
        """Means over all answer tokens.

        Returns:
            kl_nats and kl_nats_p99: what the coding changed; clipped_share: of the values, those at
            the end of the code; entropy_nats: at T = 1; agreement: share of tokens that the
            teacher finds most probable itself; head_bytes: size of the head, stored once.
        """

        def every(name: str) -> NDArray[Any]:
            return np.concatenate([s.arrays[name] for s in shards] or [np.zeros(1, np.float32)])

        clipped = sum(
            int((shard.arrays["hidden"] == end).sum())
            for shard in shards
            for end in (-LARGEST, LARGEST)
        )
        values = sum(shard.arrays["hidden"].size for shard in shards)
        return {
            "kl_nats": float(every("kl_nats").mean(dtype=np.float64)),
            "kl_nats_p99": float(np.quantile(every("kl_nats"), 0.99)),
            "clipped_share": clipped / max(values, 1),
            "entropy_nats": float(every("entropy").mean(dtype=np.float64)),
            "agreement": float(every("agreed").mean(dtype=np.float64)),
            "head_bytes": self._weight_VH.numel() * 2,
        }

    def finish(self, folder: Path) -> list[Path]:
        """Write the head."""
        return [write_head(folder, self._weight_VH)]

    def _require_plain_head(self, sample_id: str, signal: HiddenStates) -> None:
        """The first row tells whether the teacher computes with these weights and nothing else."""
        import torch

        with torch.no_grad():
            ours = logits(signal.hidden_NH[:1].to(self._weight_VH.device), self._weight_VH)
            theirs = signal.logits_NV[:1].to(ours)
            difference = float((ours - theirs).abs().max())
            tolerance = LOGIT_TOLERANCE[self._weight_VH.dtype.itemsize]
            if not difference <= tolerance * max(1.0, float(theirs.abs().max())):
                raise TeacherError(
                    f"the teacher's head is more than its matrix (logits differ by "
                    f"{difference:.3g})",
                    where=sample_id,
                    mend="set label.signal to top_k or live",
                )

    def _measure(
        self, hidden: NDArray[Any], decoded: NDArray[Any], answer_ids: Sequence[int]
    ) -> Arrays:
        """The distributions before and after coding, compared row by row on the head's device."""
        import torch

        exact_VH, stored_VH = self._weight_VH, stored_weights(self._weight_VH).to(self._weight_VH)
        answers = torch.tensor(answer_ids, device=exact_VH.device)[:, None]
        found: list[list[Any]] = [[], [], []]
        pieces = zip(
            torch.from_numpy(hidden).split(ROWS_AT_ONCE),
            torch.from_numpy(decoded).split(ROWS_AT_ONCE),
            answers.split(ROWS_AT_ONCE),
            strict=True,
        )
        with torch.no_grad():
            for before, after, ids_N1 in pieces:
                raw = logits(before, exact_VH)
                log_p = raw.log_softmax(-1)
                log_q = logits(after, stored_VH).log_softmax(-1)
                p = log_p.exp()
                found[0].append((p * (log_p - log_q)).sum(-1).clamp(min=0))
                found[1].append(-(p * log_p).sum(-1))
                found[2].append((raw.gather(-1, ids_N1) == raw.amax(-1, keepdim=True))[:, 0])
        kl, entropy, agreed = (torch.cat(values).cpu().numpy() for values in found)
        return {
            "kl_nats": kl.astype(np.float32),
            "entropy": entropy.astype(np.float32),
            "agreed": agreed.astype(np.uint8),
        }


def bytes_per_token(width: int) -> int:
    """What a row takes in a shard, with the token that it predicts; the head is not in it."""
    return width + 4 + 4 + 1 + TOKEN_BYTES


def scales_of(shard: Shard) -> NDArray[np.float32]:
    """The scale of each channel [H]."""
    return np.frombuffer(bytes.fromhex(shard.parameters["scales"]), "<f4")
