"""Distributions through a server are those of the model behind it, or there are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_server import ChatServer, Sent, completion
from limbeck.data.labels import read_labels
from limbeck.data.samples import read_samples
from limbeck.errors import TeacherError
from limbeck.labelling import label
from limbeck.recipe.sections import Labelling
from limbeck.records import Sample, TopK
from limbeck.signals.reader import SignalReader
from limbeck.teachers import Decoding, OpenTeacher
from limbeck.teachers.openai import OpenAI
from limbeck.teachers.transformers import Transformers
from limbeck.training.batches import Example
from limbeck.training.stage import live_signal
from vllm_server import VllmServer

K = 8


@pytest.fixture(scope="module")
def server(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with VllmServer(taught_model, tmp_path_factory.mktemp("pictures")) as server:
        yield server


@pytest.fixture(scope="module")
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train", 12)


def served(server: ChatServer, model: Path, **fields: Any) -> OpenAI:
    given = {"base_url": server.url, "model": "m", "tokenizer": str(model), "server": "vllm"}
    given |= {"log_probabilities": True, "scored_tokens": K, **fields}
    return OpenAI.model_validate(given)


def labelled(teacher: Any, samples: list[Sample], data: Path, output: Path, **fields: Any) -> Path:
    settings = {"top_k": K, "max_new_tokens": 64, "checks": {"max_unfit_share": 0.9}, **fields}
    label(
        output,
        teacher=teacher,
        samples=samples,
        data=data,
        settings=Labelling.model_validate(settings),
        key={},
        device="cpu",
        responses=output.parent / "responses",
    )
    return output


def signals(folder: Path, model: Path, data: Path) -> dict[str, tuple[list[int], TopK]]:
    """Of every sample that has some: its answer's tokens, and what is kept along them."""
    encoder_of = Transformers(model=str(model)).open(data, device="cpu").loaded.encoder
    reader = SignalReader(folder, None)
    found = {}
    for row in read_labels(folder):
        if row.valid:
            answer = encoder_of.answer_tokens(row.text)
            found[row.sample_id] = (answer, reader.get(row.sample_id, answer))
    return found


@pytest.mark.parametrize("answers", ["generated", "gold"])
def test_top_k_labels_are_those_of_the_model_itself(
    server: VllmServer,
    taught_model: Path,
    samples: list[Sample],
    screens: Path,
    tmp_path: Path,
    answers: str,
) -> None:
    own = labelled(
        Transformers(model=str(taught_model)), samples, screens, tmp_path / "own", answers=answers
    )
    theirs = labelled(
        served(server, taught_model), samples, screens, tmp_path / "served", answers=answers
    )
    assert [r.text for r in read_labels(own)] == [r.text for r in read_labels(theirs)]
    assert [r.tokens for r in read_labels(own)] == [r.tokens for r in read_labels(theirs)]
    ours, wanted = (signals(folder, taught_model, screens) for folder in (theirs, own))
    assert ours.keys() == wanted.keys()
    assert len(ours) >= 8
    for name, (answer, expected) in wanted.items():
        found = ours[name][1]
        assert ours[name][0] == answer
        # The least likely of the kept may be a near tie; probabilities are in steps of a code.
        same = found.ids_NK.sort(-1).values == expected.ids_NK.sort(-1).values
        assert same.float().mean() > 0.99
        rows = same.all(-1)
        torch.testing.assert_close(
            found.logp_NK[rows].exp(), expected.logp_NK[rows].exp(), atol=1e-4, rtol=2e-2
        )
        torch.testing.assert_close(
            found.log_tails_NT.exp(), expected.log_tails_NT.exp(), atol=1e-5, rtol=2e-2
        )
    means = [[r.mean_log_probability for r in read_labels(folder)] for folder in (own, theirs)]
    if answers == "generated":
        assert means[0] == pytest.approx(means[1], abs=1e-4)
    about = [json.loads((folder / "teacher.json").read_text()) for folder in (own, theirs)]
    assert about[0]["end_ids"] == about[1]["end_ids"]


def test_a_live_signal_is_the_models_own(
    server: VllmServer, taught_model: Path, samples: list[Sample], screens: Path
) -> None:
    examples = [Example(sample, sample.references[0], "teacher") for sample in samples[:4]]
    local = Transformers(model=str(taught_model)).open(screens, device="cpu")
    session = served(server, taught_model).open(screens, device="cpu")
    answers = [local.loaded.encoder.answer_tokens(e.answer) for e in examples]
    ids = [e.sample.id for e in examples]
    dense = live_signal(local, examples).signal(ids, answers)
    sparse = live_signal(session, examples).signal(ids, answers)
    session.close()
    assert isinstance(sparse, TopK)
    assert sparse.ids_NK.shape == (len(dense), K)
    exact = dense.logits_NV.log_softmax(-1)
    torch.testing.assert_close(sparse.logp_NK, exact.gather(-1, sparse.ids_NK), atol=1e-5, rtol=0)
    rest = 1 - exact.topk(K).values.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(sparse.log_tails_NT.exp(), rest, atol=1e-6, rtol=1e-3)


def generate(session: OpenTeacher, samples: list[Sample], k: int = K) -> Any:
    try:
        return session.generate(samples, Decoding(64, top_log_probabilities=k))
    finally:
        session.close()


def test_tokens_named_by_their_bytes_are_found(
    server: VllmServer, taught_model: Path, samples: list[Sample], screens: Path
) -> None:
    plain = served(server, taught_model).model_copy(update={"server": "any"})
    by_bytes = generate(plain.open(screens, device="cpu"), samples, 2)
    assert "return_tokens_as_token_ids" not in server.bodies[-1]
    by_id = generate(served(server, taught_model).open(screens, device="cpu"), samples, 2)
    assert server.bodies[-1]["return_tokens_as_token_ids"]
    usable = [(a, b) for a, b in zip(by_bytes, by_id, strict=True) if a.scored]
    assert usable
    for a, b in usable:
        assert a.scored.answer_ids == b.scored.answer_ids
        assert torch.equal(a.scored.signal.ids_NK, b.scored.signal.ids_NK)


def test_a_server_that_ignores_the_request_is_named(
    taught_model: Path, samples: list[Sample], screens: Path
) -> None:
    with ChatServer(lambda body, headers: Sent(completion("Login screen."))) as silent:
        session = served(silent, taught_model).open(screens, device="cpu")
        with pytest.raises(TeacherError, match=r"ignores.*label\.signal to none") as raised:
            generate(session, samples[:1])
    assert silent.url in str(raised.value)


def spoilt(server: VllmServer, change: Any) -> ChatServer:
    """The server's responses with something changed in every entry list."""

    def respond(body: dict[str, Any], headers: dict[str, str]) -> Sent:
        sent = server._respond(body, headers)
        content = sent.body["choices"][0]["logprobs"]["content"]
        sent.body["choices"][0]["logprobs"]["content"] = change(content)
        return sent

    return ChatServer(respond)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], r"no log-probabilities for the end.*im_end"),
        (lambda content: [{**e, "top_logprobs": []} for e in content], "gives 0 .* where 8"),
        (
            lambda content: [{**e, "top_logprobs": e["top_logprobs"][:3]} for e in content],
            r"label\.top_k to 3",
        ),
    ],
)
def test_what_is_missing_is_named(
    server: VllmServer,
    taught_model: Path,
    samples: list[Sample],
    screens: Path,
    change: Any,
    message: str,
) -> None:
    with spoilt(server, change) as other:
        session = served(other, taught_model).open(screens, device="cpu")
        with pytest.raises(TeacherError, match=message):
            generate(session, samples)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: [*c[:1], *c], "its tokens are not those of its text"),
        (lambda c: [{**c[0], "token": "token_id:999999"}, *c[1:]], "no token 999999"),
        (lambda c: [{**c[0], "token": "?", "bytes": None}, *c[1:]], "does not say which bytes"),
        (lambda c: [{**c[0], "logprob": None}, *c[1:]], "None is no log-probability"),
        (lambda c: [{**c[0], "logprob": 0.5}, *c[1:]], "0.5 is no log-probability"),
        (lambda c: [{**c[0], "token": "?", "bytes": [255, 1]}, *c[1:]], "no token of the token"),
    ],
)
def test_an_answer_with_other_tokens_is_unfit_and_never_guessed(
    server: VllmServer,
    taught_model: Path,
    samples: list[Sample],
    screens: Path,
    change: Any,
    reason: str,
) -> None:
    with spoilt(server, change) as other:
        answers = generate(served(other, taught_model).open(screens, device="cpu"), samples[:3])
        finished = [answer for answer in answers if answer.finished]
        assert finished
        for answer in finished:
            assert answer.scored is None
            assert reason in (answer.failure or "")
        session = served(other, taught_model).open(screens, device="cpu")
        with pytest.raises(TeacherError, match="none of 8 answers has usable log-probabilities"):
            generate(session, samples)


def test_more_than_the_server_gives_is_refused_with_the_mend(
    server: VllmServer, taught_model: Path, samples: list[Sample], screens: Path
) -> None:
    session = served(server, taught_model).open(screens, device="cpu")
    with pytest.raises(TeacherError, match=r"label\.top_k .*--max-logprobs"):
        session.generate(samples[:1], Decoding(8, top_log_probabilities=64))
    session.close()
