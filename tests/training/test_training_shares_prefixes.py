"""Training on questions that share their pictures: the same numbers, whole groups, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from test_loop import FakeSignals, metrics_of, same, weights_of
from torch import Tensor

from limbeck import pipeline
from limbeck.data.packing import grouped
from limbeck.data.samples import read_samples
from limbeck.errors import UsageError
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.divergence import Divergence
from limbeck.models import shared_prefix
from limbeck.models.adapt import prepare_for_training
from limbeck.models.load import LoadedModel, load_model
from limbeck.models.vocabulary import shared_vocabulary
from limbeck.recipe.sections import Adapter, ModelSection, Training
from limbeck.records import Sample
from limbeck.training.batches import Example, MicroBatch, micro_batches, plan_steps
from limbeck.training.examples import EncodedExamples
from limbeck.training.job import Job
from limbeck.training.loop import _Loop, train
from limbeck.training.objective import Objective
from limbeck.training.own_answers import OwnAnswers
from limbeck.training.preflight import preflight
from test_pipeline import tiny_recipe

FROZEN = ("vision_tower", "projector")
QUESTIONS = (3, 1, 2, 5)
"""How many are asked of each picture."""


def questions(samples: Sequence[Sample], counts: Sequence[int] = QUESTIONS) -> list[Sample]:
    """Interleaved, so that a data set's order is not what keeps them together."""
    made: list[Sample] = []
    for n in range(max(counts)):
        for sample, count in zip(samples, counts, strict=False):
            if n < count:
                text = f"Question {n}: what is in the {'middle' if n % 2 else 'corner, below'}?"
                parts = [{"type": "image"}, {"type": "text", "text": text}]
                message = {"role": "user", "content": parts}
                made.append(replace(sample, id=f"{sample.id}-{n}", messages=(message,)))
    return made


@pytest.fixture
def make_job(screens: Path, tiny_model: Path, tmp_path: Path) -> Callable[..., Job]:
    def make(
        output: str = "run",
        samples: Sequence[Sample] | None = None,
        adapter: Adapter | None = None,
        freeze: Sequence[Any] = (),
        **options: Any,
    ) -> Job:
        torch.manual_seed(0)
        student = load_model(ModelSection(model=str(tiny_model)), device="cpu")
        fields = {"share_prefix": True, "steps": 4, "samples_per_step": 11, "precision": "fp32"}
        fields |= {"samples_per_micro_batch": 6, "log_every": 1}
        training = Training.model_validate({**fields, **options})
        checkpointing = training.gradient_checkpointing
        prepare_for_training(
            student, adapter=adapter, freeze=freeze, gradient_checkpointing=checkpointing
        )
        rows = student.model.get_output_embeddings().weight.shape[0]
        vocabulary = shared_vocabulary(student.tokenizer, student.tokenizer, rows, rows)
        if samples is None:
            samples = questions(read_samples(screens, "train"))
        examples = [
            Example(s, s.references[0][: 8 + 5 * n], "teacher") for n, s in enumerate(samples)
        ]
        folder = tmp_path / output
        folder.mkdir(exist_ok=True)
        losses = [CrossEntropy(weight=0.4), Divergence(weight=0.6)]
        signals = FakeSignals(vocabulary.size, None)
        return Job(
            *(folder, student, vocabulary, examples, screens, losses, training, 5, "test"),
            signals=signals,
        )

    return make


def loss_and_gradients(loop: _Loop, monkeypatch: pytest.MonkeyPatch, share: bool) -> Any:
    """Of the loop's first step: the same micro-batches, packed or not."""
    put_together = partial(shared_prefix.training_batch, loop.job.student, share_prefix=share)
    monkeypatch.setattr(loop.encoded, "_put_together", put_together)
    loop.feed.close()  # what was prepared ahead was put together the other way
    real, rows = loop._load, []

    def load(*where: Any) -> Any:
        batch, *rest = real(*where)
        rows.append(len(batch.targets_BL))
        return batch, *rest

    monkeypatch.setattr(loop, "_load", load)
    loop._zero_gradients()
    sums, _ = loop._gradients(0)
    gradients = {n: p.grad.clone() for n, p in loop.trainable.items() if p.grad is not None}
    return sums, gradients, sum(rows)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"adapter": Adapter(rank=2)},
        {"gradient_checkpointing": True},
        {"freeze": FROZEN, "cache_vision_features": True},
        {"workers": 1},
    ],
    ids=["full", "lora", "checkpointing", "cached vision", "worker"],
)
def test_losses_and_gradients_are_those_of_samples_apart(
    make_job: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    loop = _Loop(make_job(**options))
    apart, expected, rows_apart = loss_and_gradients(loop, monkeypatch, False)
    shared, gradients, rows = loss_and_gradients(loop, monkeypatch, True)
    assert rows_apart == 11
    assert rows <= 5
    torch.testing.assert_close(shared, apart, rtol=1e-5, atol=0)
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    difference = torch.stack([(gradients[n] - expected[n]).norm() for n in expected]).norm()
    assert difference <= 1e-5 * norm


def test_another_picture_changes_the_loss_of_every_question(make_job: Any, screens: Path) -> None:
    samples = questions(read_samples(screens, "train"), (3,))
    other = read_samples(screens, "train")[1].images
    swapped = [replace(sample, images=other) for sample in samples]
    sums = []
    for name, some in (("own", samples), ("other", swapped)):
        loop = _Loop(make_job(name, some, samples_per_step=3))
        sums.append(loop._gradients(0)[0])
    assert (sums[0] - sums[1]).abs().min() > 1e-4


def test_an_epoch_keeps_pictures_together_in_a_new_order(make_job: Any) -> None:
    job = make_job(steps=3)
    job.training = job.training.model_copy(update={"share_prefix": True})
    tokens = [5] * len(job.examples)
    steps = plan_steps(job.examples, tokens, job.training, 5)
    assert steps == plan_steps(job.examples, tokens, job.training, 5)
    assert sorted(steps[0]) == sorted(steps[1]) == list(range(11))
    assert steps[0] != steps[1]
    for step in steps:
        pictures = [job.examples[i].sample.images[0].sha256 for i in step]
        changes = sum(a != b for a, b in pairwise(pictures))
        assert changes == len(set(pictures)) - 1


@pytest.mark.parametrize(("size", "ranks"), [(6, 1), (5, 2), (2, 2), (4, 3)])
def test_pictures_stay_on_one_rank_and_in_one_micro_batch(
    make_job: Any, size: int, ranks: int
) -> None:
    job = make_job()
    lengths = [20 + n for n in range(len(job.examples))]
    step = list(range(11))
    made: list[list[MicroBatch]] = [
        micro_batches(
            step, job.examples, lengths, size=size, rank=r, ranks=ranks, share_prefix=True
        )
        for r in range(ranks)
    ]
    assert len({len(own) for own in made}) == 1
    counted = [b for own in made for b in own if b.counted]
    assert sorted(i for b in counted for i in b.indices) == step
    assert max(len(b.indices) for b in counted) <= size
    of_rank: dict[str, set[int]] = {}
    batches: dict[str, int] = {}
    for rank, own in enumerate(made):
        for batch in (b for b in own if b.counted):
            pictures = [job.examples[i].sample.images[0].sha256 for i in batch.indices]
            changes = sum(a != b for a, b in pairwise(pictures))
            assert changes == len(set(pictures)) - 1, "questions on one picture are neighbours"
            for picture in set(pictures):
                of_rank.setdefault(picture, set()).add(rank)
                batches[picture] = batches.get(picture, 0) + 1
    assert all(len(ranks_of) == 1 for ranks_of in of_rank.values())
    asked: dict[str, int] = {}
    for example in job.examples:
        key = example.sample.images[0].sha256
        asked[key] = asked.get(key, 0) + 1
    assert batches == {key: -(-count // size) for key, count in asked.items()}


def test_resume_after_a_crash_is_bit_identical(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = make_job("unbroken", checkpoint_every=2)
    train(unbroken)
    broken = make_job("broken", checkpoint_every=2)
    load = _Loop._load

    def crash(self: _Loop, step: int, number: int, micro_batch: MicroBatch) -> Any:
        if (step, number) == (3, 1):
            raise KeyboardInterrupt
        return load(self, step, number, micro_batch)

    monkeypatch.setattr(_Loop, "_load", crash)
    with pytest.raises(KeyboardInterrupt):
        train(broken)
    monkeypatch.undo()
    resumed = make_job("broken", checkpoint_every=2)
    train(resumed)
    assert same(weights_of(unbroken), weights_of(resumed))
    assert metrics_of(unbroken) == metrics_of(resumed)


def test_out_of_memory_cuts_groups_and_keeps_the_step(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_of(loop: _Loop) -> tuple[float, float]:
        report = loop._step_within_memory(0)
        return report.loss, report.gradient_norm

    loop = _Loop(make_job("whole"))
    longest = max(len(loop.encoded[n].input_ids_L) for n in range(len(loop.encoded)))
    whole = step_of(loop)
    forward = Objective.forward

    def limited(self: Objective, inputs: dict[str, Tensor], *arguments: Any) -> Any:
        if inputs["input_ids"].shape[1] > longest:
            raise MemoryError
        return forward(self, inputs, *arguments)

    monkeypatch.setattr(Objective, "forward", limited)
    loop = _Loop(make_job("limited"))
    assert step_of(loop) == pytest.approx(whole, rel=1e-5)
    assert loop.counters.micro_batch < 5, "the test's limit does not reach the largest group"


def test_the_student_s_own_answers_are_those_to_prompts_apart(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_policy = {"refresh_every": 1, "temperature": 0.0, "max_new_tokens": 6}
    seen: list[int] = []
    real = LoadedModel.generate

    def generate(self: LoadedModel, items: Any, **options: Any) -> Any:
        groups = grouped([i.without_answer() for i in items], self.encoder.image_token_id)
        seen.append(len(groups) if options["share_prefix"] else len(items))
        return real(self, items, **options)

    monkeypatch.setattr(LoadedModel, "generate", generate)
    answers: list[dict[str, str]] = []
    for share_prefix in (False, True):
        job = make_job(f"{share_prefix}", share_prefix=share_prefix, on_policy=on_policy)
        job.examples = [replace(e, target="student") for e in job.examples]
        with torch.no_grad():
            for parameter in job.student.model.parameters():
                if parameter.ndim > 1:
                    generator = torch.Generator().manual_seed(parameter.numel())
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        encoded = EncodedExamples(job.examples, job.student.encoder, job.data)
        own = OwnAnswers(job, encoded, [list(range(11))], Accelerator(cpu=True))
        own.refresh(0, 5)
        answers.append(own.state())
        assert len(set(own.state().values())) > 3
    assert answers[0] == answers[1]
    assert seen[:3] == [5, 5, 1]
    assert sum(seen[3:]) == 4, "each picture in one batch, and its beginning once"


def test_says_what_is_shared_before_training(make_job: Any) -> None:
    facts = preflight(make_job())
    assert facts["shared_prefix"].startswith("11 samples on 4 sets of pictures (in the first, ")


def test_a_kernel_that_cannot_share_is_refused_in_the_plan(tmp_path: Path) -> None:
    changes = {"training__share_prefix": True, "student__attention": "flash_attention_2"}
    with pytest.raises(UsageError, match=r"training\.share_prefix.*sdpa or eager"):
        pipeline.build_plan(tiny_recipe(tmp_path, **changes))
    pipeline.build_plan(tiny_recipe(tmp_path, **{**changes, "student__attention": "eager"}))


def test_sharing_makes_another_student(tmp_path: Path) -> None:
    """The order of the samples is another."""
    plans = [
        pipeline.build_plan(tiny_recipe(tmp_path, training__share_prefix=share))
        for share in (False, True)
    ]
    students = [{s.stage.fingerprint for s in p.stages if s.stage.kind == "student"} for p in plans]
    assert not students[0] & students[1]


def test_a_student_that_cannot_share_is_refused(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    reason = "models of type qwen2_vl have layers of type sliding_attention"
    monkeypatch.setattr("limbeck.training.preflight.why_not_packed", lambda *_: reason)
    with pytest.raises(UsageError, match=r"training\.share_prefix.*sliding_attention"):
        preflight(job)
