"""What every teacher backend must do; a file in limbeck/teachers is tested by being there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from limbeck.data.samples import read_samples
from limbeck.errors import TeacherError
from limbeck.recipe.component import component_names
from limbeck.records import Dense, Sample
from limbeck.teachers import Decoding, OpenTeacher, ScoredAnswer, Teacher, batches_by_length
from vllm_server import VllmServer

BACKENDS = component_names("limbeck.teachers")
Maker = Callable[[Path, Path], Iterator[tuple[Teacher, Callable[[Path], Teacher]]]]


def transformers(model: Path, scratch: Path):
    from limbeck.teachers.transformers import Transformers

    yield Transformers(model=str(model)), lambda other: Transformers(model=str(other))


def several(model: Path) -> Teacher:
    from limbeck.teachers.mixture import Mixture

    member = {"backend": "transformers", "model": str(model)}
    return Mixture.model_validate({"teachers": [member, member], "route": {"shares": [1, 1]}})


def mixture(model: Path, scratch: Path):
    yield several(model), several


def openai(model: Path, scratch: Path):
    from limbeck.teachers.openai import OpenAI

    def named(name: str) -> Teacher:
        fields = {"base_url": server.url, "model": name, "tokenizer": str(model)}
        fields |= {"server": "vllm", "log_probabilities": True}
        return OpenAI.model_validate(fields)

    with VllmServer(model, scratch) as server:
        yield named("taught"), lambda other: named(str(other))


def mlx(model: Path, scratch: Path):
    from limbeck.teachers.mlx import Mlx

    if not (python := os.environ.get("LIMBECK_MLX_PYTHON")):
        pytest.skip("LIMBECK_MLX_PYTHON names no Python that has mlx-vlm (tests/teachers)")
    yield Mlx(model=str(model), python=python), lambda other: Mlx(model=str(other), python=python)


def vllm(model: Path, scratch: Path):
    """A stand-in of the engine, which has its shapes and a real tiny model."""
    from limbeck.teachers.vllm import Vllm

    stand_in = Path(__file__).parent.parent / "teachers" / "fake_vllm"
    places = (str(stand_in), os.environ.get("PYTHONPATH", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
        fields = {"log_probabilities": 8}
        yield Vllm(model=str(model), **fields), lambda other: Vllm(model=str(other), **fields)


FACTORIES: dict[str, Maker] = {
    "mixture": mixture,
    "mlx": mlx,
    "openai": openai,
    "transformers": transformers,
    "vllm": vllm,
}
"""For each backend: a teacher of the model in a folder, and how to make one of another model."""


@pytest.fixture(scope="module", params=BACKENDS)
def made(request: pytest.FixtureRequest, taught_model: Path, tmp_path_factory):
    assert request.param in FACTORIES, f"add a factory for {request.param} to this file"
    factory = contextmanager(FACTORIES[request.param])
    with factory(taught_model, tmp_path_factory.mktemp("teacher")) as made:
        yield made


@pytest.fixture(scope="module")
def teacher(made: tuple[Teacher, Callable[[Path], Teacher]]) -> Teacher:
    return made[0]


@pytest.fixture(scope="module")
def session(teacher: Teacher, screens: Path) -> Iterator[OpenTeacher]:
    session = teacher.open(screens, device="cpu")
    yield session
    session.close()


@pytest.fixture(scope="module")
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train", 6)


def test_identity_is_json_and_follows_the_weights(
    teacher: Teacher,
    made: tuple[Teacher, Callable[[Path], Teacher]],
    taught_model: Path,
    tmp_path: Path,
) -> None:
    identity = teacher.identity()
    assert json.loads(json.dumps(identity)) == identity
    copy = tmp_path / "model"
    shutil.copytree(taught_model, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "changed": True}))
    assert made[1](copy).identity() != identity


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
        answers = session.generate(samples, Decoding(12, temperature=1.5, seed=seed))
        return [answer.text for answer in answers]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_scores_are_given_or_refused_as_the_capabilities_say(
    teacher: Teacher, session: OpenTeacher, samples: list[Sample]
) -> None:
    """With a row for every token, whatever is scored beside the answer."""
    texts = [sample.references[0] for sample in samples]
    can = teacher.capabilities()
    if "score" not in can:
        with pytest.raises(TeacherError, match="cannot score"):
            session.score(samples, texts)
        return
    together = session.score(samples, texts)
    for sample, text, scored in zip(samples, texts, together, strict=True):
        (alone,) = session.score([sample], [text])
        assert scored.answer_ids == alone.answer_ids
        assert len(scored.signal) == len(scored.answer_ids)
        assert isinstance(scored.signal, Dense) is ("whole_distributions" in can)
        assert scored.hidden_NH is not None or "hidden_states" not in can
        here, there = (probabilities(one, session) for one in (scored, alone))
        assert (here - there).abs().max() < 1e-4
        assert max(scored.answer_ids) < here.shape[1] <= session.vocabulary_rows


def test_log_probabilities_come_with_answers_where_that_is_stated(
    teacher: Teacher, session: OpenTeacher, samples: list[Sample]
) -> None:
    can = teacher.capabilities()
    how = Decoding(40, top_log_probabilities=4 if "log_probabilities" in can else 0)
    answers = [answer for answer in session.generate(samples, how) if answer.finished]
    for answer in answers:
        assert (answer.mean_log_probability is not None) == ("log_probabilities" in can)
    assert answers


def test_a_greedy_answer_is_the_argmax_of_its_own_distribution(
    teacher: Teacher, session: OpenTeacher, samples: list[Sample]
) -> None:
    can = teacher.capabilities()
    kept = 4 if "log_probabilities" in can else 0
    answers = session.generate(samples, Decoding(40, top_log_probabilities=kept))
    if kept:
        assert any(answer.scored for answer in answers), "they come with the answers"
    pairs = [(answer, answer.scored) for answer in answers if answer.scored]
    if "score" in can:
        scored = session.score(samples, [answer.text for answer in answers])
        pairs += list(zip(answers, scored, strict=True))
    assert pairs or not can & {"score", "log_probabilities"}
    compared = 0
    for answer, rows in pairs:
        assert rows is not None
        tokens = rows.answer_ids if answer.finished else rows.answer_ids[:-1]
        best = probabilities(rows, session).argmax(-1).tolist()[: len(tokens)]
        if len(tokens) == answer.tokens:  # half a character has no text to score
            assert list(tokens) == best
            compared += 1
    assert compared or not pairs


def probabilities(scored: ScoredAnswer, session: OpenTeacher) -> torch.Tensor:
    """[N, V]; 0 for tokens that the teacher did not give."""
    if isinstance(scored.signal, Dense):
        return scored.logits_NV.softmax(-1)
    signal = scored.signal
    assert session.vocabulary_rows is not None
    empty = torch.zeros(len(signal), session.vocabulary_rows)
    return empty.scatter(-1, signal.ids_NK, signal.logp_NK.exp())


def test_the_image_reaches_the_teacher(session: OpenTeacher, samples: list[Sample]) -> None:
    session.check_image_sensitivity(samples)
    tokens = session.visual_tokens(samples[0])
    assert tokens is None or tokens > 0


def test_the_tokenizer_is_kept_where_there_is_one(session: OpenTeacher, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    if session.vocabulary_rows is None:
        return
    session.save_tokenizer(tmp_path)
    kept = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert len(kept) <= session.vocabulary_rows
    assert kept("Login screen", add_special_tokens=False)["input_ids"]
    prefix, end_ids = session.answer_frame
    assert isinstance(prefix, str)
    assert end_ids[-1] in kept.all_special_ids


def test_batches_hold_every_sample_once_and_the_longest_first(
    session: OpenTeacher, samples: list[Sample]
) -> None:
    batches = list(batches_by_length(session, samples, 4))
    assert [len(batch) for batch in batches] == [4, 2]
    assert sorted(s.id for batch in batches for s in batch) == sorted(s.id for s in samples)
    lengths = [session.expected_length(s) for batch in batches for s in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_a_stream_answers_every_request_as_generate_does(
    session: OpenTeacher, samples: list[Sample]
) -> None:
    from limbeck.teachers import Request

    batches = [[Request(s) for s in samples[:4]], [Request(s) for s in samples[4:]]]
    found = {
        request.sample.id: answer
        for requests, answers in session.stream(batches, Decoding(12))
        for request, answer in zip(requests, answers, strict=True)
    }
    alone = session.generate(samples, Decoding(12))
    assert found == {s.id: answer for s, answer in zip(samples, alone, strict=True)}
    assert all(isinstance(value, (int, float)) for value in session.usage().values())
