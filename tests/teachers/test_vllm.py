"""Backend vllm: requests in its shapes, its log-probabilities as signals, an engine for each rank.

The fast tests run Limbeck's worker with `fake_vllm`, which has the shapes of vLLM's sources and a
real tiny model behind it. The slow ones run vLLM for real, in an environment of its own that is
found through LIMBECK_VLLM_PYTHON; on a machine without a GPU that has to be a build for CPUs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from mixed_samples import with_several_pictures_and_none

from limbeck.data.samples import read_samples
from limbeck.errors import TeacherError, UsageError
from limbeck.records import Dense, Sample, TopK
from limbeck.teachers import Decoding, OpenTeacher, Request, ScoredAnswer
from limbeck.teachers.transformers import Transformers
from limbeck.teachers.vllm import Vllm
from limbeck.teachers.vllm_engine import (
    adapter_arguments,
    engine_arguments,
    environment_of_rank,
)

PYTHON = os.environ.get("LIMBECK_VLLM_PYTHON", "")
real = pytest.mark.skipif(
    not PYTHON, reason="LIMBECK_VLLM_PYTHON names no Python that has vLLM (see tests/teachers)"
)
FAKE = Path(__file__).parent / "fake_vllm"
KEPT = 8


@pytest.fixture(scope="module")
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train", 12)


@pytest.fixture(scope="module")
def fake() -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    places = (str(FAKE), os.environ.get("PYTHONPATH", ""))
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    yield patch
    patch.undo()


@pytest.fixture(scope="module")
def session(fake: pytest.MonkeyPatch, varied_model: Path, screens: Path):
    teacher = Vllm(model=str(varied_model), log_probabilities=KEPT, requests_at_once=5)
    opened = teacher.open(screens, device="cpu")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def transformers(varied_model: Path, screens: Path) -> OpenTeacher:
    return Transformers(model=str(varied_model)).open(screens, device="cpu")


def require_same(ours: list[ScoredAnswer], theirs: list[ScoredAnswer]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.answer_ids == other.answer_ids
        assert isinstance(mine.signal, TopK)
        assert isinstance(other.signal, Dense)
        exact = other.signal.logits_NV.log_softmax(-1)
        torch.testing.assert_close(
            mine.signal.logp_NK, exact.gather(-1, mine.signal.ids_NK), atol=1e-4, rtol=0
        )
        best = exact.topk(KEPT).values
        assert (mine.signal.logp_NK[:, :-1] >= best[:, 1:] - 1e-4).all()
        chosen = torch.tensor(mine.answer_ids)[:, None]
        assert (mine.signal.ids_NK == chosen).any(-1).all()


def same_as_transformers(
    session: OpenTeacher, transformers: OpenTeacher, samples: list[Sample]
) -> None:
    texts = transformers.generate(samples, Decoding(30))
    answers = session.generate(samples, Decoding(30, top_log_probabilities=KEPT))
    for ours, theirs in zip(answers, texts, strict=True):
        assert (ours.text, ours.tokens, ours.finished) == (
            theirs.text,
            theirs.tokens,
            theirs.finished,
        )
    with_signal = [n for n, answer in enumerate(answers) if answer.scored is not None]
    assert with_signal
    assert all(answers[n].finished for n in with_signal)
    require_same(
        [answers[n].scored for n in with_signal],  # type: ignore[misc]
        transformers.score(
            [samples[n] for n in with_signal], [answers[n].text for n in with_signal]
        ),
    )
    for answer in answers:
        assert answer.mean_log_probability is not None
        assert -20 < answer.mean_log_probability < 0
    gold = [sample.references[0] for sample in samples]
    require_same(session.score(samples, gold), transformers.score(samples, gold))
    session.check_image_sensitivity(samples)


def test_answers_and_log_probabilities_are_those_of_the_model(
    session: OpenTeacher, transformers: OpenTeacher, samples: list[Sample]
) -> None:
    same_as_transformers(session, transformers, samples)


def test_batches_are_given_to_the_engine_together_and_come_back_apart(
    session: OpenTeacher, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answer = session.answer  # type: ignore[attr-defined]
    monkeypatch.setattr(session, "answer", lambda r, d: asked.append(len(r)) or answer(r, d))
    batches = [[Request(s) for s in samples[n : n + 2]] for n in range(0, 12, 2)]
    found = list(session.stream(batches, Decoding(4)))
    assert asked == [4, 4, 4]  # five at once at most, and whole batches
    assert [batch for batch, _ in found] == batches
    assert list(session.stream([], Decoding(4))) == []
    alone = session.generate(samples, Decoding(4))
    assert [one for _, answers in found for one in answers] == alone


def test_sampled_answers_differ_by_number_and_not_by_batch(
    session: OpenTeacher, samples: list[Sample]
) -> None:
    how = Decoding(12, temperature=1.0, seed=3)
    asked = [Request(sample, number) for sample in samples[:2] for number in range(3)]
    together = session.answer(asked, how)  # type: ignore[attr-defined]
    apart = [session.answer([one], how)[0] for one in asked]  # type: ignore[attr-defined]
    assert together == apart
    assert len({answer.text for answer in together}) == len(asked)


def test_a_label_stage_through_it_keeps_what_transformers_keeps(
    fake: pytest.MonkeyPatch,
    varied_model: Path,
    screens: Path,
    samples: list[Sample],
    tmp_path: Path,
) -> None:
    from limbeck.labelling import label
    from limbeck.recipe.sections import Labelling

    settings = Labelling(
        answers="gold", signal="top_k", top_k=KEPT - 2, max_new_tokens=20, batch_size=4
    )
    kept = {}
    for teacher in (
        Vllm(model=str(varied_model), log_probabilities=KEPT),
        Transformers(model=str(varied_model)),
    ):
        output = tmp_path / teacher.backend
        summary = label(
            output,
            teacher=teacher,
            samples=samples,
            data=screens,
            settings=settings,
            key={},
            device="cpu",
        )
        kept[teacher.backend] = summary
    ours, theirs = kept["vllm"]["signals"], kept["transformers"]["signals"]
    assert ours["agreement"] == theirs["agreement"]
    # Answers of other tokens than the likeliest cost the last place of a row: a little more tail.
    assert ours["tail_mass"]["1"] == pytest.approx(theirs["tail_mass"]["1"], abs=0.05)


def test_pictures_that_do_not_reach_the_engine_are_noticed(
    session: OpenTeacher, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    score = session._score  # type: ignore[attr-defined]
    monkeypatch.setattr(session, "_score", lambda s, a, **_: score(s, a))
    with pytest.raises(TeacherError, match="do not reach the teacher"):
        session.check_image_sensitivity(samples)


def test_an_engine_that_makes_other_visual_tokens_is_noticed(
    session: OpenTeacher, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    encoder = session.prompts.encoder  # type: ignore[attr-defined]
    own = encoder.encode(samples[0], session.data, None)  # type: ignore[attr-defined]
    larger = [Image.new("RGB", (320, 320), "white")]
    monkeypatch.setattr(encoder, "encode", lambda *_: own)
    monkeypatch.setattr(encoder, "pictures", lambda *_, **__: larger)
    with pytest.raises(TeacherError, match="tokens of the prompt and its pictures"):
        session.check_image_sensitivity(samples)


def test_the_pixel_budget_reaches_the_engine(
    fake: pytest.MonkeyPatch, varied_model: Path, screens: Path, samples: list[Sample]
) -> None:
    small = Vllm(model=str(varied_model), max_pixels=6144)
    prompts = small.load_prompts()
    arguments = engine_arguments(small, prompts)
    assert arguments["mm_processor_kwargs"]["size"]["longest_edge"] == 6144
    assert arguments["dtype"] == "float32"
    assert "mm_processor_kwargs" not in engine_arguments(Vllm(model=str(varied_model)), prompts)
    session = small.open(screens, device="cpu")
    try:
        session.check_image_sensitivity(samples)  # compares the prompts, token by token
        whole = Transformers(model=str(varied_model)).open(screens, device="cpu")
        assert session.visual_tokens(samples[0]) < whole.visual_tokens(samples[0])  # type: ignore[operator]
    finally:
        session.close()


def test_an_adapter_is_applied_by_the_engine(
    fake: pytest.MonkeyPatch,
    varied_model: Path,
    screens: Path,
    samples: list[Sample],
    transformers: OpenTeacher,
    tmp_path: Path,
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText, AutoProcessor

    base = AutoModelForImageTextToText.from_pretrained(varied_model)
    options = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(base, options)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    AutoProcessor.from_pretrained(varied_model).save_pretrained(tmp_path / "merged")
    teacher = Vllm(model=str(varied_model), adapter_path=str(tmp_path / "adapter"))
    session = teacher.open(screens, device="cpu")
    merged = Transformers(model=str(tmp_path / "merged")).open(screens, device="cpu")
    try:
        texts = [answer.text for answer in session.generate(samples[:4], Decoding(12))]
        assert texts == [answer.text for answer in merged.generate(samples[:4], Decoding(12))]
        assert texts != [a.text for a in transformers.generate(samples[:4], Decoding(12))]
    finally:
        session.close()


def test_prompts_with_several_pictures_and_with_none(
    session: OpenTeacher, transformers: OpenTeacher, samples: list[Sample]
) -> None:
    mixed = with_several_pictures_and_none(samples)
    assert [a.text for a in session.generate(mixed, Decoding(12))] == [
        a.text for a in transformers.generate(mixed, Decoding(12))
    ]
    gold = [sample.references[0] for sample in mixed]
    require_same(session.score(mixed, gold), transformers.score(mixed, gold))


def test_every_rank_has_its_own_cards_and_no_launcher() -> None:
    launched = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_PORT": "1", "HOME": "/h"}
    assert environment_of_rank({"HOME": "/h"}, 2) == {"HOME": "/h"}
    assert environment_of_rank(launched, 1) == {"HOME": "/h", "CUDA_VISIBLE_DEVICES": "1"}
    assert environment_of_rank(launched, 2)["CUDA_VISIBLE_DEVICES"] == "2,3"
    given = {**launched, "CUDA_VISIBLE_DEVICES": "4,5,6,GPU-7"}
    assert environment_of_rank(given, 2)["CUDA_VISIBLE_DEVICES"] == "6,GPU-7"
    with pytest.raises(TeacherError, match="needs cards 4 to 7"):
        environment_of_rank(given, 4)


def test_an_adapter_is_identified_and_its_rank_fits(tmp_path: Path, varied_model: Path) -> None:
    assert adapter_arguments(Vllm(model="x")) == {"adapter": None}
    teacher = Vllm(model=str(varied_model), adapter_path=str(tmp_path))
    with pytest.raises(UsageError, match=r"adapter_config\.json is missing"):
        teacher.identity()
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 12}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    assert adapter_arguments(teacher) == {
        "adapter": str(tmp_path.resolve()),
        "lora": {"max_lora_rank": 16},
    }
    identity = teacher.identity()
    assert identity != Vllm(model=str(varied_model)).identity()
    (tmp_path / "adapter_model.safetensors").write_bytes(b"others")
    assert teacher.identity() != identity


def test_identity_is_of_what_changes_answers(varied_model: Path) -> None:
    def identity(**fields: object):
        return Vllm.model_validate({"model": str(varied_model), **fields}).identity()

    same = {"tensor_parallel_size": 2, "requests_at_once": 9, "log_probabilities": 5, "python": "p"}
    assert identity(**same) == identity()
    for changed in ({"dtype": "bfloat16"}, {"quantization": "fp8"}, {"max_pixels": 5000}):
        assert identity(**changed) != identity()


@real
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_engine_gives_what_transformers_gives(
    varied_model: Path,
    screens: Path,
    samples: list[Sample],
    transformers: OpenTeacher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    shared = set(Path("/dev/shm").glob("psm_*"))
    teacher = Vllm(
        model=str(varied_model), python=PYTHON, context_tokens=512, log_probabilities=KEPT
    )
    session = teacher.open(screens, device="cpu")
    try:
        mixed = with_several_pictures_and_none(samples)
        same_as_transformers(session, transformers, [*samples, *mixed])
        how = Decoding(12, temperature=1.0, seed=3)
        twice = [session.generate(samples[:3], how) for _ in range(2)]
        assert twice[0] == twice[1]
    finally:
        session.close()
    assert set(Path("/dev/shm").glob("psm_*")) <= shared  # ended in order
