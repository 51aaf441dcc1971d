"""What every teacher backend must do; a file in limbeck/teachers is tested by being there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from limbeck.data.samples import read_samples
from limbeck.recipe.component import component_names
from limbeck.records import Dense, Sample, TopK
from limbeck.teachers import Decoding, OpenTeacher, ScoredAnswer, Teacher, batches_by_length

BACKENDS = component_names("limbeck.teachers")


def transformers(folder: Path) -> Teacher:
    from limbeck.teachers.transformers import Transformers

    return Transformers(model=str(folder))


def mlx(folder: Path) -> Teacher:
    from limbeck.teachers.mlx import Mlx

    return Mlx(model=str(folder), python=os.environ.get("LIMBECK_MLX_PYTHON", ""))


def vllm(folder: Path) -> Teacher:
    from limbeck.teachers.vllm import Vllm

    return Vllm(model=str(folder), log_probabilities=8)


FACTORIES: dict[str, Callable[[Path], Teacher]] = {
    "transformers": transformers,
    "mlx": mlx,
    "vllm": vllm,
}
"""How to make a teacher of each backend from a folder with a tiny model."""

NEEDS = {"mlx": "LIMBECK_MLX_PYTHON"}
"""Environment variables that name a Python which has what a backend runs in."""

FAKES = {"vllm": Path(__file__).parent.parent / "teachers" / "fake_vllm"}
"""Folders with a stand-in of a runtime, which has the runtime's shapes and a real tiny model."""


@pytest.fixture(scope="module", params=BACKENDS)
def teacher(request: pytest.FixtureRequest, tiny_model: Path) -> Teacher:
    assert request.param in FACTORIES, f"add a factory for {request.param} to this file"
    if (needed := NEEDS.get(request.param)) and not os.environ.get(needed):
        pytest.skip(f"{needed} names no Python for backend {request.param} (tests/teachers)")
    return FACTORIES[request.param](tiny_model)


@pytest.fixture(scope="module")
def session(teacher: Teacher, screens: Path):
    with pytest.MonkeyPatch.context() as patch:
        if fake := FAKES.get(teacher.backend):  # type: ignore[attr-defined]
            places = (str(fake), os.environ.get("PYTHONPATH", ""))
            patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
        opened = teacher.open(screens, device="cpu")
    yield opened
    opened.close()


def log_probabilities(scored: ScoredAnswer) -> tuple[Tensor, Tensor]:
    """Ids [N, K] and log-probabilities [N, K] of a row's likeliest tokens, or of all."""
    if isinstance(scored.signal, TopK):
        return scored.signal.ids_NK, scored.signal.logp_NK
    logp_NV = scored.signal.logits_NV.log_softmax(-1)
    return logp_NV.argsort(-1, descending=True), logp_NV.sort(-1, descending=True).values


@pytest.fixture(scope="module")
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train", 6)


def test_identity_is_json_and_follows_the_weights(teacher: Teacher, tmp_path: Path) -> None:
    identity = teacher.identity()
    assert json.loads(json.dumps(identity)) == identity
    copy = tmp_path / "model"
    shutil.copytree(teacher.model, copy)  # type: ignore[attr-defined]
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "changed": True}))
    other = FACTORIES[teacher.backend](copy)  # type: ignore[attr-defined]
    assert other.identity() != identity


def test_greedy_answers_do_not_depend_on_the_batch(
    session: OpenTeacher, samples: list[Sample]
) -> None:
    together = session.generate(samples, Decoding(12))
    alone = [session.generate([sample], Decoding(12))[0] for sample in samples]
    assert together == alone
    assert all(1 <= answer.tokens <= 12 for answer in together)
    assert all(answer.finished or answer.tokens == 12 for answer in together)


def test_sampling_follows_the_seed(session: OpenTeacher, samples: list[Sample]) -> None:
    def drawn(seed: int) -> list[str]:
        answers = session.generate(samples, Decoding(12, temperature=1.0, seed=seed))
        return [answer.text for answer in answers]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_scores_have_a_row_for_every_token_and_do_not_depend_on_the_batch(
    session: OpenTeacher, samples: list[Sample]
) -> None:
    texts = [sample.references[0] for sample in samples]
    together = session.score(samples, texts)
    for sample, text, scored in zip(samples, texts, together, strict=True):
        (alone,) = session.score([sample], [text])
        assert scored.answer_ids == alone.answer_ids
        (ids, logp), (_, alone_logp) = map(log_probabilities, (scored, alone))
        assert len(ids) == len(scored.answer_ids)
        assert (logp - alone_logp).abs().max() < 1e-4
        assert max(*scored.answer_ids, int(ids.max())) < session.vocabulary_rows


def test_signals_are_of_the_kind_that_is_stated(
    teacher: Teacher, session: OpenTeacher, samples: list[Sample]
) -> None:
    (scored,) = session.score(samples[:1], [samples[0].references[0]])
    can = teacher.capabilities()
    assert isinstance(scored.signal, Dense) == ("whole_distributions" in can)
    assert (scored.hidden_NH is not None) == ("hidden_states" in can)
    how = Decoding(12, top_log_probabilities=4 if "log_probabilities" in can else 0)
    (answer,) = session.generate(samples[:1], how)
    assert (answer.mean_log_probability is not None) == ("log_probabilities" in can)


def test_a_greedy_answer_is_the_argmax_of_its_own_distribution(
    session: OpenTeacher, samples: list[Sample]
) -> None:
    answers = session.generate(samples, Decoding(12))
    scored = session.score(samples, [answer.text for answer in answers])
    for answer, rows in zip(answers, scored, strict=True):
        tokens = rows.answer_ids if answer.finished else rows.answer_ids[:-1]
        best = log_probabilities(rows)[0][:, 0].tolist()[: len(tokens)]
        if len(tokens) == answer.tokens:  # an unknown word has no text to score
            assert list(tokens) == best


def test_the_image_reaches_the_teacher(session: OpenTeacher, samples: list[Sample]) -> None:
    session.check_image_sensitivity(samples)
    assert session.visual_tokens(samples[0]) > 0


def test_the_tokenizer_is_kept(session: OpenTeacher, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    session.save_tokenizer(tmp_path)
    kept = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert len(kept) <= session.vocabulary_rows
    assert kept("Login screen", add_special_tokens=False)["input_ids"]


def test_batches_hold_every_sample_once_and_the_longest_first(
    session: OpenTeacher, samples: list[Sample]
) -> None:
    batches = list(batches_by_length(session, samples, 4))
    assert [len(batch) for batch in batches] == [4, 2]
    assert sorted(s.id for batch in batches for s in batch) == sorted(s.id for s in samples)
    lengths = [session.expected_length(s) for batch in batches for s in batch]
    assert lengths == sorted(lengths, reverse=True)
