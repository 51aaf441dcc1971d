"""The training loop: deterministic steps, one division a step, checkpoints that resume bit-exactly.

One optimiser step: split its examples into micro-batches, run each through the objective, divide
every loss's sum by the step's supervised tokens, or what else the loss counts (all micro-batches,
all ranks), back-propagate, clip, guard against non-finite numbers, update.
"""

from __future__ import annotations

import time
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from limbeck import journal
from limbeck.data.tokens import Batch
from limbeck.errors import MemoryExhaustedError, NonFiniteError, StoppedError
from limbeck.models.shared_prefix import training_batch
from limbeck.progress import meter, say
from limbeck.records import AnswerSize, Features, TeacherSignal
from limbeck.stop import stop_on_signals
from limbeck.training import checkpoint
from limbeck.training.batches import MicroBatch, micro_batches, plan_steps
from limbeck.training.counters import Counters, StepReport
from limbeck.training.examples import EncodedExamples
from limbeck.training.feed import Feed
from limbeck.training.job import Job
from limbeck.training.memory import is_out_of_memory, memory_in_use
from limbeck.training.objective import Objective, features_on, loss_names, on_device
from limbeck.training.optimizer import make_optimizers, set_learning_rate, share_of_peak
from limbeck.training.own_answers import OwnAnswers, drawn_steps
from limbeck.training.tracking import note_of, open_tracker
from limbeck.training.vision_cache import cache_vision_features

METRICS = "metrics.jsonl"

_Loaded = tuple[Batch, TeacherSignal | None, Features | None]


def train(job: Job) -> dict[str, Any]:
    """Train `job.student` in place; returns the summary for the manifest.

    Raises:
        NonFiniteError: a loss or gradient is not finite (policy `stop`, or too many skips).
        StoppedError: SIGTERM or SIGUSR1 arrived; a checkpoint was saved.
        MemoryExhaustedError: one sample alone does not fit the device.
    """
    return _Loop(job).run()


class _Loop:
    def __init__(self, job: Job) -> None:
        self.job = job
        precision = "bf16" if job.training.precision == "bf16" else "no"
        # One process trains several models, and accelerate keeps the first one's precision.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            mixed_precision=precision, cpu=str(job.student.device) == "cpu"
        )
        head = job.student.model.get_output_embeddings()
        teacher_shape = job.features.shape if job.features else None
        objective = Objective(
            job.student,
            job.losses,
            job.vocabulary,
            job.training.head_gradient_tolerance,
            teacher_shape,
            job.verbalisers,
        )
        optimizers = make_optimizers(objective, job.training, exclude_from_muon=head.parameters())
        self.why_plain = objective.why_plain
        self.module, *self.optimizers = self.accelerator.prepare(objective, *optimizers)
        self.trainable = {
            name: parameter
            for name, parameter in job.student.model.named_parameters()
            if parameter.requires_grad
        }
        # They are part of a checkpoint, and not of the finished student.
        beside = objective.projectors
        self.trainable |= {
            f"projectors.{n}": p for n, p in beside.named_parameters() if p.requires_grad
        }
        self.saved = self.trainable | {f"projectors.{n}": t for n, t in beside.state_dict().items()}
        self._matches = objective.matches
        self.names = loss_names(job.losses)
        self.vision = cache_vision_features(job, self.accelerator)
        shared = partial(training_batch, job.student, share_prefix=True)
        together = shared if job.training.share_prefix else None
        encoder = job.student.encoder
        self.encoded = EncodedExamples(job.examples, encoder, job.data, self.vision, together)
        self.steps = plan_steps(job.examples, self.encoded.answer_tokens, job.training, job.seed)
        fraction = job.training.on_policy.fraction
        self.steps = drawn_steps(self.steps, job.examples, fraction, job.seed)
        self.own_answers = OwnAnswers(job, self.encoded, self.steps, self.accelerator)
        self._signalled = {loss.target for loss in job.losses if loss.needs_signal}
        self._compared = {loss.target for loss in job.losses if loss.reads_features}
        self.counters = Counters(micro_batch=job.training.samples_per_micro_batch)
        self.feed = Feed(
            self.encoded,
            self._micro_batches,
            len(self.steps),
            workers=job.training.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        self.checkpoints = job.output / "checkpoints"

    @property
    def _is_main(self) -> bool:
        return self.accelerator.is_main_process

    def run(self) -> dict[str, Any]:
        job, total = self.job, len(self.steps)
        torch.manual_seed(job.seed)
        first = self._resume()
        if self._is_main:
            say(f"  {job.title}: {self._head_and_losses()}")
        tracker = (
            open_tracker(job.training.tracker, job.title, job.output) if self._is_main else None
        )
        started, seconds_before = time.monotonic(), self._seconds_so_far()
        self.module.train()
        meters = meter(job.title, total, done=first)
        with stop_on_signals() as stop, meters as progress, closing(self.feed):
            for step in range(first, total):
                self.own_answers.refresh(step, self.counters.micro_batch)
                report = self._step_within_memory(step)
                self.counters.count(report)
                if self._is_due(step + 1, job.training.log_every):
                    elapsed = seconds_before + time.monotonic() - started
                    row = self._row(step + 1, report, elapsed)
                    if self._is_main:
                        journal.append(job.output / METRICS, [row])
                    if tracker is not None:
                        tracker.log(row)
                    progress.advance(0, note_of(row))
                progress.advance()
                stopping = self._anywhere(stop.signal_name is not None)
                if stopping or self._is_due(step + 1, job.training.checkpoint_every):
                    self._save(step + 1)
                if stopping and step + 1 < total:
                    raise StoppedError(
                        f"stopped by {stop.signal_name or 'another rank'} after step {step + 1} "
                        f"of {total}; the state was saved",
                        mend="run the same command to go on",
                    )
        if tracker is not None:
            tracker.finish()
        self.module.eval()
        return self._summary(total)

    # -- one step ---------------------------------------------------------------------------

    def _step_within_memory(self, step: int) -> StepReport:
        """Run a step; when memory runs out, halve the micro-batch and run the same step again."""
        random_state = checkpoint.random_state()
        while True:
            failed = False
            try:
                gradients = self._gradients(step)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                failed = True
            if not self._anywhere(failed):
                return self._update(step, *gradients)  # pyright: ignore[reportPossiblyUnbound]
            self._zero_gradients()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if self.counters.micro_batch == 1:
                raise MemoryExhaustedError(
                    f"out of memory at step {step + 1} with one sample at a time",
                    where="training",
                    mend="lower student.max_pixels, use gradient_checkpointing or an adapter",
                )
            self.counters.micro_batch //= 2
            checkpoint.set_random_state(random_state)
            say(f"  out of memory: {self.counters.micro_batch} samples a micro-batch from here on")

    def _gradients(self, step: int) -> tuple[Tensor, list[int]]:
        """Accumulate the step's gradient; returns this rank's sums of losses, and the divisors."""
        own = self._micro_batches(step)
        divisors = self._divisors(step)
        # DDP averages over ranks; the divisor already counts what is scored on all of them.
        ranks = self.accelerator.num_processes
        weights = [
            ranks * loss.weight / max(1, divisor)
            for loss, divisor in zip(self.job.losses, divisors, strict=True)
        ]
        total = torch.zeros(len(self.job.losses), device=self.accelerator.device)
        for number, micro_batch in enumerate(own):
            batch, signal, features = self._load(step, number, micro_batch)
            is_last = number == len(own) - 1
            with _maybe_no_sync(self.accelerator, self.module, not is_last):
                counted = 1.0 if micro_batch.counted else 0.0
                own_weights = [weight * counted for weight in weights]
                weighted, sums = self.module(
                    batch.inputs,
                    batch.targets_BL,
                    micro_batch.target,
                    signal,
                    own_weights,
                    features,
                )
                self.accelerator.backward(weighted)
            total += sums * counted
        return total, divisors

    def _update(self, step: int, sums: Tensor, divisors: list[int]) -> StepReport:
        training = self.job.training
        sums = self.accelerator.reduce(sums, "sum")
        parts = [
            float(value) / max(1, divisor)
            for value, divisor in zip(sums.tolist(), divisors, strict=True)
        ]
        loss = sum(part * term.weight for part, term in zip(parts, self.job.losses, strict=True))
        norm = float(
            torch.nn.utils.clip_grad_norm_(
                list(self.trainable.values()), training.clip_norm or float("inf")
            )
        )
        finite = torch.isfinite(torch.tensor([loss, norm])).all().item()
        if self._anywhere(not finite):
            self._handle_non_finite(step, loss, norm)
        else:
            set_learning_rate(self.optimizers, share_of_peak(step, len(self.steps), training))
            for optimizer in self.optimizers:
                optimizer.step()
        self._zero_gradients()
        tokens = sum(self.encoded.answer_tokens[index] for index in self.steps[step])
        return StepReport(loss, parts, norm, tokens, len(self.steps[step]))

    def _handle_non_finite(self, step: int, loss: float, norm: float) -> None:
        ids = [self.job.examples[i].sample.id for i in self.steps[step]]
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        what = f"loss {loss} and gradient norm {norm} at step {step + 1} on samples {shown}"
        self.counters.skipped += 1
        too_many = self.counters.skipped > self.job.training.max_skipped
        if self.job.training.non_finite == "stop" or too_many:
            raise NonFiniteError(
                f"{what}; nothing was updated",
                where="training",
                mend="lower the learning rate, use precision: fp32, or look at these samples",
            )
        say(f"  skipped: {what}")

    # -- data -------------------------------------------------------------------------------

    def _micro_batches(self, step: int) -> list[MicroBatch]:
        return micro_batches(
            self.steps[step],
            self.job.examples,
            self.encoded.expected_lengths,
            size=self.counters.micro_batch,
            rank=self.accelerator.process_index,
            ranks=self.accelerator.num_processes,
            share_prefix=self.job.training.share_prefix,
        )

    def _divisors(self, step: int) -> list[int]:
        """What each loss counts in the whole step: its target's supervised tokens, or spans."""
        return [
            sum(
                loss.count_of(self._size(index))
                for index in self.steps[step]
                if self.job.examples[index].target == loss.target
            )
            for loss in self.job.losses
        ]

    def _size(self, index: int) -> AnswerSize:
        tokens = self.encoded.answer_tokens[index]
        spans = tokens if self.job.spans is None else self.job.spans[index]
        pictured = 1 if self.job.examples[index].sample.images else 0
        return AnswerSize(tokens, spans, pictured=pictured)

    def _load(self, step: int, number: int, micro_batch: MicroBatch) -> _Loaded:
        found = self.feed.get(step, number, micro_batch)
        device = self.accelerator.device
        ids = [self.job.examples[i].sample.id for i in micro_batch.indices]
        signal = features = None
        if self.job.signals is not None and micro_batch.target in self._signalled:
            columns_of = self.job.vocabulary.columns_of
            columns = [columns_of(torch.tensor(answer)).tolist() for answer in found.answers]
            signal = on_device(self.job.signals.signal(ids, columns), device)
        if self.job.features is not None and micro_batch.target in self._compared:
            features = features_on(self.job.features.features(ids, found.answers), device)
        return found.batch.to(device), signal, features

    # -- state ------------------------------------------------------------------------------

    def _resume(self) -> int:
        found = checkpoint.latest(self.checkpoints)
        if found is None:
            if self._is_main:
                (self.job.output / METRICS).unlink(missing_ok=True)
            return 0
        state = checkpoint.load(found, weights=self.saved, optimizers=self._plain_optimizers())
        self.counters = Counters(**state["counters"])
        self.own_answers.restore({int(i): text for i, text in state["own_answers"].items()})
        if self._is_main:
            rows = [
                r for r in journal.read(self.job.output / METRICS) if r["step"] <= state["step"]
            ]
            (self.job.output / METRICS).unlink(missing_ok=True)
            journal.append(self.job.output / METRICS, rows)
        self.accelerator.wait_for_everyone()
        say(f"  {self.job.title}: going on from step {state['step']} of {len(self.steps)}")
        return int(state["step"])

    def _save(self, step: int) -> None:
        if self._is_main:
            checkpoint.save(
                self.checkpoints,
                step,
                weights=self.saved,
                optimizers=self._plain_optimizers(),
                state={"counters": vars(self.counters), "own_answers": self.own_answers.state()},
            )
        self.accelerator.wait_for_everyone()

    def _plain_optimizers(self) -> list[torch.optim.Optimizer]:
        return [getattr(o, "optimizer", o) for o in self.optimizers]

    def _zero_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    # -- reporting --------------------------------------------------------------------------

    def _row(self, step: int, report: StepReport, seconds: float) -> dict[str, Any]:
        """A row of metrics.jsonl: means since the last row."""
        loss, *parts = self.counters.means()
        return {
            "step": step,
            "loss": loss,
            "losses": dict(zip(self.names, parts, strict=True)),
            "gradient_norm": report.gradient_norm,
            "learning_rate": self.optimizers[-1].param_groups[0]["lr"],
            "samples": self.counters.samples,
            "answer_tokens": self.counters.answer_tokens,
            "skipped": self.counters.skipped,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(self.counters.answer_tokens / max(seconds, 1e-9), 1),
            "data_wait_share": round(self.feed.share_waited(), 4),
            **memory_in_use(),
            **({} if self._matches is None else {"matches": self._matches.tolist()}),
        }

    def _seconds_so_far(self) -> float:
        rows = journal.read(self.job.output / METRICS)
        return float(rows[-1]["seconds"]) if rows else 0.0

    def _summary(self, steps: int) -> dict[str, Any]:
        rows = journal.read(self.job.output / METRICS)
        return {
            "steps": steps,
            "samples_seen": self.counters.samples,
            "examples": len(self.job.examples),
            "answer_tokens_seen": self.counters.answer_tokens,
            "skipped_steps": self.counters.skipped,
            "head_and_losses": self._head_and_losses(),
            "final_loss": rows[-1]["loss"] if rows else None,
            "trainable_parameters": sum(p.numel() for p in self.trainable.values()),
            "vision_features": self.vision.facts if self.vision else None,
        }

    def _head_and_losses(self) -> str:
        if self.why_plain is None:
            return "language head and losses in one pass"
        return f"losses from whole logits, since {self.why_plain}"

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == len(self.steps)

    def _anywhere(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        if self.accelerator.num_processes == 1:
            return flag
        value = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(value, "sum").item() > 0)


def _maybe_no_sync(accelerator: Accelerator, module: torch.nn.Module, wanted: bool) -> Any:
    return accelerator.no_sync(module) if wanted else nullcontext()
