"""The training loop: one division a step, bit-exact resume, guards."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.data.samples import read_samples
from limbeck.errors import MemoryExhaustedError, NonFiniteError, StoppedError, UsageError
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.cross_tokenizer import CrossTokenizer
from limbeck.losses.divergence import Divergence
from limbeck.losses.fused import columns, memory
from limbeck.models.adapt import prepare_for_training
from limbeck.models.load import load_model
from limbeck.models.vocabulary import shared_vocabulary
from limbeck.recipe.sections import Adapter, ModelSection, Training
from limbeck.records import Dense
from limbeck.signals.spans import Alignment, SpanSignals
from limbeck.signals.top_k import from_logits
from limbeck.training import loop as loop_module
from limbeck.training import objective as objective_module
from limbeck.training.batches import Example
from limbeck.training.examples import EncodedExamples
from limbeck.training.job import Job
from limbeck.training.loop import _Loop, train

TIMING = ("seconds", "tokens_per_second", "data_wait_share", "process_rss_gib")
LENGTHS = (3, 20, 7, 12)


class FakeSignals:
    """Distributions that depend on the sample alone, so that any batching gives the same rows."""

    def __init__(self, vocabulary: int, k: int | None) -> None:
        self.vocabulary, self.k = vocabulary, k

    def signal(self, sample_ids: list[str], answers: list[list[int]]) -> Any:
        rows = []
        for sample_id, answer in zip(sample_ids, answers, strict=True):
            generator = torch.Generator().manual_seed(sum(sample_id.encode()))
            rows.append(torch.randn(len(answer), self.vocabulary, generator=generator) * 3)
        logits_NV = torch.cat(rows)
        return Dense(logits_NV) if self.k is None else from_logits(logits_NV, self.k, [1.0])


@pytest.fixture
def make_job(screens: Path, tiny_model: Path, tmp_path: Path) -> Callable[..., Job]:
    def make(
        output: Path | str = "run",
        losses: Any = None,
        k: int | None = None,
        adapter: Adapter | None = None,
        **options: Any,
    ):
        torch.manual_seed(0)
        student = load_model(ModelSection(model=str(tiny_model)), device="cpu")
        prepare_for_training(student, adapter=adapter)
        rows = student.model.get_output_embeddings().weight.shape[0]
        vocabulary = shared_vocabulary(student.tokenizer, student.tokenizer, rows, rows)
        samples = read_samples(screens, "train")
        examples = [
            Example(s, " ".join(s.references[0].split()[: LENGTHS[i % 4]]), "teacher")
            for i, s in enumerate(samples)
        ]
        fields = {"steps": 6, "samples_per_step": 8, "precision": "fp32", "log_every": 2}
        training = Training.model_validate({**fields, "samples_per_micro_batch": 4, **options})
        folder = tmp_path / output
        folder.mkdir(exist_ok=True)
        return Job(
            folder,
            student,
            vocabulary,
            examples,
            screens,
            losses or [CrossEntropy(weight=0.4), Divergence(weight=0.6)],
            training,
            seed=5,
            title="test",
            signals=FakeSignals(vocabulary.size, k),
        )

    return make


def weights_of(job: Job) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in job.student.model.named_parameters()}


def metrics_of(job: Job) -> list[dict[str, Any]]:
    lines = (job.output / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMING} for line in lines]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("k", [None, 5])
def test_micro_batches_of_ragged_lengths_change_no_gradient(make_job: Any, k: int | None) -> None:
    reference: dict[str, Tensor] | None = None
    for size in (8, 1, 2, 4):
        job = make_job(k=k, samples_per_micro_batch=size)
        loop = _Loop(job)
        loop._gradients(0)
        gradients = {n: p.grad.clone() for n, p in loop.trainable.items() if p.grad is not None}
        if reference is None:
            reference = gradients
            continue
        norm = torch.stack([g.norm() for g in reference.values()]).norm()
        difference = torch.stack([(gradients[n] - reference[n]).norm() for n in reference]).norm()
        assert difference / norm < 1e-6


def across_tokenizers(job: Job) -> Job:
    """The same job with a teacher that has one token for two of the student's."""
    tokens = [len(job.student.encoder.answer_tokens(e.answer)) for e in job.examples]
    spans = [(count + 1) // 2 for count in tokens]
    alignments = {
        example.sample.id: Alignment(
            tuple(range(count)), tuple(range(count)), tuple(i // 2 for i in range(own)), count
        )
        for example, own, count in zip(job.examples, tokens, spans, strict=True)
    }
    assert job.signals is not None
    job.signals = SpanSignals(job.signals, alignments, job.vocabulary.size)
    job.spans = spans
    return job


@pytest.mark.parametrize("k", [None, 5])
def test_a_loss_over_spans_is_divided_by_the_spans_of_the_step(
    make_job: Any, k: int | None
) -> None:
    reference: Tensor | None = None
    for size in (8, 1, 3):
        losses = [CrossEntropy(weight=0.5), CrossTokenizer(weight=2.0)]
        job = across_tokenizers(make_job(k=k, losses=losses, samples_per_micro_batch=size))
        loop = _Loop(job)
        sums, divisors = loop._gradients(0)
        assert job.spans is not None
        assert divisors == [
            sum(loop.encoded.answer_tokens[i] for i in loop.steps[0]),
            sum(job.spans[i] for i in loop.steps[0]),
        ]
        found = torch.cat([p.grad.flatten() for p in loop.trainable.values() if p.grad is not None])
        reference = found if reference is None else reference
        assert (found - reference).norm() <= 1e-6 * reference.norm()
        report = loop._update(0, sums, divisors)
        parts = [s / d for s, d in zip(sums.tolist(), divisors, strict=True)]
        assert report.loss == pytest.approx(0.5 * parts[0] + 2.0 * parts[1])
        assert report.answer_tokens == divisors[0]


@pytest.mark.parametrize("k", [None, 5])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_pass_gives_the_gradients_of_whole_logits(
    make_job: Any, monkeypatch: pytest.MonkeyPatch, k: int | None, precision: str
) -> None:
    found: dict[str | None, dict[str, Tensor]] = {}
    for reason in (None, "of this test"):
        job = make_job(k=k, precision=precision)
        if reason:
            monkeypatch.setattr(objective_module, "why_plain", lambda *_: "of this test")
        loop = _Loop(job)
        assert loop.why_plain == reason
        loop._gradients(0)
        found[reason] = {n: p.grad.clone() for n, p in loop.trainable.items() if p.grad is not None}
    ours, theirs = found.values()
    assert ours.keys() == theirs.keys()
    norm = torch.stack([g.norm() for g in theirs.values()]).norm()
    difference = torch.stack([(ours[n] - theirs[n]).norm() for n in theirs]).norm()
    # In bf16 each side rounds the gradient of the logits, after other sums.
    assert difference / norm < (1e-5 if precision == "fp32" else 0.03)


def test_a_filter_of_the_heads_gradient_changes_that_gradient_alone(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "SPARSE", 1.0)  # an untrained student's gradient is in all columns
    found: list[dict[str, Tensor]] = []
    for tolerance in (None, 0.1):
        job = make_job(k=5, samples_per_micro_batch=3, head_gradient_tolerance=tolerance)
        loop = _Loop(job)
        loop._gradients(0)
        found.append({n: p.grad for n, p in loop.trainable.items() if p.grad is not None})
        own = job.student.model.get_output_embeddings().weight
        (name,) = (n for n, p in loop.trainable.items() if p is own)
    exact, filtered = found
    for other in exact.keys() - {name}:
        assert torch.equal(exact[other], filtered[other])
    apart = (exact[name] - filtered[name]).norm() / exact[name].norm()
    assert 0 < apart < 0.3


def test_a_filter_without_a_gradient_of_the_head_in_one_pass_is_refused(make_job: Any) -> None:
    class Own(CrossEntropy):
        fused = False

    with pytest.raises(UsageError, match="Own has no fused form"):
        _Loop(make_job(losses=[Own()], head_gradient_tolerance=0.003))
    job = make_job(head_gradient_tolerance=0.003)
    job.student.model.get_output_embeddings().weight.requires_grad_(False)
    with pytest.raises(UsageError, match=r"head_gradient_tolerance.*not trained"):
        _Loop(job)


def test_the_heads_gradient_lies_in_the_same_memory_step_after_step(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[Tensor]] = []
    for smallest in (memory.SMALLEST_BYTES, 64):
        monkeypatch.setattr(memory, "SMALLEST_BYTES", smallest)
        loop = _Loop(make_job(samples_per_micro_batch=3))
        sizes: list[int] = []
        for step in range(6):
            loop._update(step, *loop._gradients(step))
            weight = loop.job.student.model.get_output_embeddings().weight
            size = 1 << (weight.numel() * weight.element_size() - 1).bit_length()
            sizes.append(len(loop.module._memory._free[size]))
        found.append([p.detach().clone() for p in loop.trainable.values()])
        # All are free after the update: the gradient, one that was added to it, a chunk's logits.
        assert max(sizes) <= 3
        assert (sizes[0] > 0) == (smallest == 64)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_says_whether_head_and_losses_run_in_one_pass(
    make_job: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = train(make_job("one", steps=1))
    assert summary["head_and_losses"] == "language head and losses in one pass"
    assert "language head and losses in one pass" in capsys.readouterr().err

    class Own(CrossEntropy):
        fused = False

    summary = train(make_job("other", steps=1, losses=[Own()]))
    assert summary["head_and_losses"] == "losses from whole logits, since Own has no fused form"
    assert "Own has no fused form" in capsys.readouterr().err


def test_the_objective_is_the_mean_over_the_answer_tokens_of_the_step(make_job: Any) -> None:
    job = make_job(losses=[CrossEntropy()], samples_per_micro_batch=2)
    loop = _Loop(job)
    sums, divisors = loop._gradients(0)
    total, tokens = 0.0, 0
    encoder = job.student.encoder
    for index in loop.steps[0]:
        example = job.examples[index]
        item = encoder.encode(example.sample, job.data, example.answer)
        from limbeck.data.tokens import collate

        batch = collate([item], pad_id=encoder.pad_id, side="right")
        with torch.no_grad():
            logits = job.student.model(**batch.inputs).logits[0].float()
        for position, token in enumerate(item.input_ids_L.tolist()):
            if position >= item.answer_start:
                total -= logits[position - 1].log_softmax(-1)[token].item()
                tokens += 1
    assert divisors == [tokens]
    assert sums.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("crash_at", [(1, 0), (3, 1), (5, 0)])
def test_resume_after_a_crash_is_bit_identical(
    make_job: Any, monkeypatch: pytest.MonkeyPatch, crash_at: tuple[int, int]
) -> None:
    unbroken = make_job("unbroken", checkpoint_every=2)
    train(unbroken)

    broken = make_job("broken", checkpoint_every=2)
    load = _Loop._load

    def crash(self: _Loop, step: int, number: int, micro_batch: Any) -> Any:
        if (step, number) == crash_at:
            raise KeyboardInterrupt
        return load(self, step, number, micro_batch)

    monkeypatch.setattr(_Loop, "_load", crash)
    with pytest.raises(KeyboardInterrupt):
        train(broken)
    monkeypatch.undo()

    resumed = make_job("broken", checkpoint_every=2)
    summary = train(resumed)
    assert summary["steps"] == 6
    assert same(weights_of(unbroken), weights_of(resumed))
    assert metrics_of(unbroken) == metrics_of(resumed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_the_step_and_the_next_run_goes_on(
    make_job: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    unbroken = make_job("unbroken")
    train(unbroken)
    job = make_job("stopped")
    update = _Loop._update

    def send(self: _Loop, step: int, *rest: Any) -> Any:
        if step == 2:
            os.kill(os.getpid(), number)
        return update(self, step, *rest)

    monkeypatch.setattr(_Loop, "_update", send)
    with pytest.raises(StoppedError, match="step 3 of 6") as raised:
        train(job)
    assert raised.value.exit_code == 75
    monkeypatch.undo()
    resumed = make_job("stopped")
    train(resumed)
    assert same(weights_of(unbroken), weights_of(resumed))


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    gradients = _Loop._gradients

    def spoiled(self: _Loop, step: int) -> Any:
        sums, divisors = gradients(self, step)
        if step in steps:
            next(iter(self.trainable.values())).grad.fill_(float("nan"))
        return sums, divisors

    monkeypatch.setattr(_Loop, "_gradients", spoiled)


def test_a_gradient_that_is_not_finite_stops_before_the_update(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    before = weights_of(job)
    spoil(monkeypatch, {0})
    with pytest.raises(NonFiniteError, match="step 1 on samples train-") as raised:
        train(job)
    assert raised.value.exit_code == 5
    assert same(before, weights_of(job))


def test_skipping_is_counted_and_bounded(make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, {1, 3})
    summary = train(make_job("a", non_finite="skip", max_skipped=2))
    assert summary["skipped_steps"] == 2
    with pytest.raises(NonFiniteError):
        train(make_job("b", non_finite="skip", max_skipped=1))


def limit_memory(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    forward = loop_module.Objective.forward

    def limited(self: Any, inputs: dict[str, Tensor], *rest: Any) -> Tensor:
        if len(inputs["input_ids"]) > samples:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, inputs, *rest)

    monkeypatch.setattr(loop_module.Objective, "forward", limited)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_job("small", samples_per_micro_batch=2)
    train(small)
    limit_memory(monkeypatch, 2)
    large = make_job("large", samples_per_micro_batch=8)
    train(large)
    assert same(weights_of(small), weights_of(large))


def test_out_of_memory_with_one_sample_is_exit_6(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 0)
    with pytest.raises(MemoryExhaustedError) as raised:
        train(make_job())
    assert raised.value.exit_code == 6


def test_any_number_of_workers_gives_the_same_run(make_job: Any) -> None:
    options = {"adapter": Adapter(rank=2, dropout=0.3), "steps": 6, "checkpoint_every": 3}
    runs = [make_job(f"w{workers}", workers=workers, **options) for workers in (0, 1, 2)]
    for job in runs:
        train(job)
        assert multiprocessing.active_children() == [], "worker processes outlive the training"
    for job in runs[1:]:
        assert same(weights_of(runs[0]), weights_of(job))
        assert metrics_of(runs[0]) == metrics_of(job)


def test_a_run_with_workers_resumes_bit_identically(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"adapter": Adapter(rank=2, dropout=0.3), "workers": 1, "checkpoint_every": 2}
    unbroken = make_job("unbroken", **options)
    train(unbroken)
    load = _Loop._load

    def crash(self: _Loop, step: int, number: int, micro_batch: Any) -> Any:
        if (step, number) == (3, 1):
            raise KeyboardInterrupt
        return load(self, step, number, micro_batch)

    monkeypatch.setattr(_Loop, "_load", crash)
    with pytest.raises(KeyboardInterrupt):
        train(make_job("broken", **options))
    monkeypatch.undo()
    resumed = make_job("broken", **options)
    train(resumed)
    assert same(weights_of(unbroken), weights_of(resumed))
    assert metrics_of(unbroken) == metrics_of(resumed)


def test_metrics_say_what_share_of_the_time_the_model_waited_for_data(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(self: Any, micro_batch: Any) -> Any:
        time.sleep(0.5)
        return together(self, micro_batch)

    together = EncodedExamples.together
    shares = []
    for name in ("quick", "slow"):
        job = make_job(name, steps=2, log_every=1)
        train(job)
        rows = [json.loads(r) for r in (job.output / "metrics.jsonl").read_text().splitlines()]
        shares.append([row["data_wait_share"] for row in rows])
        monkeypatch.setattr(EncodedExamples, "together", slow)
    assert all(0 <= share <= 1 for share in shares[0] + shares[1])
    assert min(shares[1]) > 0.5 > shares[0][1]


def test_training_in_bf16_lowers_the_loss(make_job: Any) -> None:
    options = {"steps": 30, "optimizer": "muon", "learning_rate": 3e-3, "precision": "bf16"}
    job = make_job(losses=[CrossEntropy()], log_every=5, **options)
    train(job)
    rows = metrics_of(job)
    assert rows[-1]["loss"] < 0.85 * rows[0]["loss"]


def test_metrics_name_every_part_and_add_up_to_the_loss(make_job: Any) -> None:
    job = make_job()
    train(job)
    for row in metrics_of(job):
        parts = row["losses"]
        assert row["loss"] == pytest.approx(
            0.4 * parts["cross_entropy"] + 0.6 * parts["divergence_forward"]
        )
