"""Log-probabilities in a response as a `TopK` signal at temperature 1.

The server's k likeliest tokens of a position are kept as they are; the mass of all others is what
they leave of 1, to the precision of the numbers that were sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limbeck.errors import TeacherError
from limbeck.served.replies import Reply
from limbeck.served.vocabulary import ServedVocabulary, UnusableError
from limbeck.signals.from_server import top_k_from_rows

if TYPE_CHECKING:
    from limbeck.records import TopK

RULED_OUT = -1000.0
"""Stands for what servers write for minus infinity (vLLM -9999): its exponential is 0."""

ROUNDING = 1e-3
"""By which a log-probability of 0 may be above it."""

TEMPLATE_TOKENS = 16
"""Most tokens that a chat template writes after an answer."""


@dataclass(frozen=True)
class Along:
    """Distributions along an answer: its tokens as columns, a row for each, end of turn included.

    `mean_log_probability` is that of the answer's own tokens.
    """

    answer_ids: tuple[int, ...]
    signal: TopK
    mean_log_probability: float


def along_written(
    reply: Reply, text: str, k: int, vocabulary: ServedVocabulary, *, where: str
) -> Along:
    """The distributions that came with an answer that the server wrote to its end.

    Args:
        reply: asked with `logprobs`.
        text: the answer without the white space that the template puts before it.
        k: how many tokens a row were asked for.
        vocabulary: of the server's model.
        where: the server, for errors.

    Raises:
        UnusableError: those of this answer cannot be used; says why.
        TeacherError: the server does not give what is needed.
    """
    if not reply.logprobs:
        raise TeacherError(
            "the server ignores that log-probabilities are asked for",
            where=where,
            mend="set label.signal to none, or use a server that gives them (vLLM does)",
        )
    ids = [vocabulary.id_of(entry) for entry in reply.logprobs]
    wanted = vocabulary.answer_tokens(text)
    if ids == wanted[: -len(vocabulary.end_ids)]:
        end = " ".join(vocabulary.names(vocabulary.end_ids))
        raise TeacherError(
            f"the server gives no log-probabilities for the end of an answer ({end}), without"
            " which a student does not learn to stop",
            where=where,
            mend="set label.signal to none, or use a server that gives them (vLLM does)",
        )
    if ids != wanted:
        raise UnusableError("its tokens are not those of its text")
    rows = [
        [(vocabulary.id_of(one), _logp(one)) for one in entry.get("top_logprobs") or []]
        for entry in reply.logprobs
    ]
    own = [_logp(entry) for entry in reply.logprobs]
    return _along(ids, rows, own, k, vocabulary, where)


def along_given(
    reply: Reply, text: str, k: int, vocabulary: ServedVocabulary, *, where: str
) -> Along:
    """The distributions along an answer that stood at the end of the prompt (vLLM).

    Args:
        reply: asked with `prompt_logprobs` and `return_token_ids`.
        text: the answer.
        k: how many tokens a row were asked for.
        vocabulary: of the server's model.
        where: the server and the sample, for errors.

    Raises:
        UnusableError: the prompt does not hold the answer as the tokenizer cuts it.
        TeacherError: the server does not give what is needed.
    """
    ids, rows = reply.prompt_token_ids, reply.prompt_logprobs
    if not ids or not rows or len(ids) != len(rows):
        raise TeacherError(
            "the server gives no prompt_logprobs with prompt_token_ids",
            where=where,
            mend="serve the model with a newer vLLM, or remove `server: vllm`",
        )
    wanted = vocabulary.answer_tokens(text)
    starts = range(len(ids) - len(wanted), 0, -1)
    start = next((i for i in starts if ids[i : i + len(wanted)] == wanted), None)
    if start is None:
        raise UnusableError("the server's prompt does not end with the tokens of the answer")
    own: list[float] = []
    kept: list[list[tuple[int, float]]] = []
    for token, row in zip(wanted, rows[start : start + len(wanted)], strict=True):
        found = {int(name): _logp(value) for name, value in (row or {}).items()}
        if token not in found:
            raise UnusableError("a token of the answer has no log-probability")
        own.append(found[token])
        likeliest = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
        kept.append([(vocabulary.known(token), logp) for token, logp in likeliest])
    return _along(wanted, kept, own, k, vocabulary, where)


def _along(
    ids: Sequence[int],
    rows: Sequence[Sequence[tuple[int, float]]],
    own: Sequence[float],
    k: int,
    vocabulary: ServedVocabulary,
    where: str,
) -> Along:
    import torch

    k = min(k, vocabulary.size)
    fewest = min(len(row) for row in rows)
    if fewest < k:
        raise TeacherError(
            f"the server gives {fewest} log-probabilities a token where {k} were asked for",
            where=where,
            mend=f"set label.top_k to {fewest}" if fewest else "set label.signal to none",
        )
    rows = [sorted(row, key=lambda pair: -pair[1])[:k] for row in rows]
    if any(len({token for token, _ in row}) != k for row in rows):
        raise UnusableError("a token stands twice in one distribution")
    kept_NK = vocabulary.columns_of(torch.tensor([[token for token, _ in row] for row in rows]))
    told = [
        {column: max(logp, RULED_OUT) for column, (_, logp) in zip(own_columns, row, strict=True)}
        for own_columns, row in zip(kept_NK.tolist(), rows, strict=True)
    ]
    signal = top_k_from_rows(told, k)
    columns = vocabulary.columns_of(torch.tensor(ids)).tolist()
    return Along(tuple(columns), signal, _mean(own))


def _logp(entry: dict[str, Any]) -> float:
    value = entry.get("logprob")
    if not isinstance(value, (int, float)) or value > ROUNDING:
        raise UnusableError(f"{value!r} is no log-probability")
    return float(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
