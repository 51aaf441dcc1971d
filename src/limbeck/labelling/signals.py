"""The teacher's distributions along its answers, into the cache that the recipe asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import TeacherError
from limbeck.recipe.sections import Labelling
from limbeck.records import Dense, Label, Sample
from limbeck.teachers import Answer, OpenTeacher, ScoredAnswer

if TYPE_CHECKING:
    from limbeck.signals.writer import SignalWriter

MIN_ARGMAX_AGREEMENT = 0.99
"""Share of greedily decoded tokens that must be the argmax of the distribution kept for them."""


def signal_writer(
    folder: Path, key: dict[str, Any], settings: Labelling, session: OpenTeacher
) -> SignalWriter[Any] | None:
    """The cache to write into; None where the recipe keeps no distributions."""
    from limbeck.signals.writer import SignalWriter

    if settings.signal == "top_k":
        from limbeck.signals.top_k_coding import TopKCoding

        return SignalWriter(folder, key, TopKCoding(settings.top_k, settings.temperatures))
    if settings.signal == "hidden":
        from limbeck.signals.hidden_coding import HiddenCoding

        return SignalWriter(folder, key, HiddenCoding(session.linear_head()))
    return None


def write_signals(
    writer: SignalWriter[Any],
    session: OpenTeacher,
    samples: Sequence[Sample],
    answers: Sequence[Answer],
    labels: Sequence[Label],
    settings: Labelling,
) -> list[Label]:
    """Keep the distributions of the fit answers, and note their mean log-probability.

    Answers that came without distributions are scored.
    """
    from limbeck.signals.key import sample_key

    rows = zip(samples, answers, labels, strict=True)
    fit = [(sample, answer, label) for sample, answer, label in rows if label.valid]
    unscored = [(sample, label.text) for sample, answer, label in fit if answer.scored is None]
    scored = iter(session.score(*map(list, zip(*unscored, strict=True))) if unscored else ())
    noted: dict[str, Label] = {}
    for sample, answer, label in fit:
        found = answer.scored or next(scored)
        writer.append(
            sample.id,
            found.answer_ids,
            _kept(found, settings),
            sample_key(sample, label.text),
        )
        noted[sample.id] = replace(
            label,
            tokens=len(found.answer_ids),
            mean_log_probability=_mean_log_probability(found, label.mean_log_probability),
        )
    return [noted.get(label.sample_id, label) for label in labels]


def require_agreement(signals: dict[str, Any], settings: Labelling) -> None:
    """See that greedy answers are the argmax of what was kept along them.

    Raises:
        TeacherError: too many are not.
    """
    agreement = signals["agreement"]
    # An answer that was cut is scored with an end token that the teacher did not choose, and gold
    # answers with none of its tokens.
    own = settings.answers == "generated" and not settings.gold_share
    greedy = own and settings.temperature == 0
    if greedy and settings.checks.must_finish and agreement < MIN_ARGMAX_AGREEMENT:
        raise TeacherError(
            f"only {agreement:.1%} of the greedy tokens are the argmax of the kept distribution",
            where="label",
            mend="answers change when re-tokenised; use a higher dtype or label.answers: gold",
        )


def _kept(found: ScoredAnswer, settings: Labelling) -> Any:
    """What the recipe keeps of the distributions along one answer."""
    if settings.signal == "top_k":
        from limbeck.signals.from_server import fewer
        from limbeck.signals.top_k import from_logits

        if isinstance(found.signal, Dense):
            return from_logits(found.logits_NV, settings.top_k, settings.temperatures)
        given = found.signal.ids_NK.shape[-1]
        if given < settings.top_k:
            raise TeacherError(
                f"the teacher gives {given} log-probabilities a token, not {settings.top_k}",
                where="label.top_k",
                mend=f"set it to {given}, or let the teacher give more",
            )
        return fewer(found.signal, settings.top_k, found.answer_ids)
    from limbeck.signals.hidden_coding import HiddenStates

    assert found.hidden_NH is not None, "a teacher that shows its head shows what it reads"
    return HiddenStates(found.hidden_NH, found.logits_NV)


def _mean_log_probability(found: ScoredAnswer, known: float | None) -> float | None:
    from limbeck.signals.from_server import mean_of_kept

    if isinstance(found.signal, Dense):
        return found.mean_log_probability
    mean = mean_of_kept(found.signal, found.answer_ids)
    return known if mean is None else mean
