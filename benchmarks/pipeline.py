"""How much faster is a step of ours than the naive online loop, and is the loss the same?

    python benchmarks/pipeline.py [--steps 2] [--rounds 5] [--batch-size 4]

Naive: every step opens and prepares its pictures one sample at a time, runs the teacher, runs the
student's frozen vision tower, and both language heads on every position. Then, one after the other:
heads on the answer's rows only; the teacher's distributions from the cache; the features of the
vision tower from the cache. And, with all of that, the other two ways to get the teacher's
distributions: hidden states from the cache, and the live teacher. All of them train the same small
Qwen2-VL (tower and projector frozen) on the same batches with a teacher about four times its size,
in turn (A B C D ... A B C D ...) in one process. Writes work/benchmarks/pipeline.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

VARIANTS = ("naive", "answer-only heads", "+ cached teacher", "+ cached vision")
SIGNALS = {
    "top_k": VARIANTS[-1],
    "hidden": "hidden states in place of top k",
    "live": "live teacher in place of top k",
}
"""The loop that runs with each signal, vision features cached in all of them."""

GOAL_SPEED_UP = 6.0
GOAL_LOSS = 1e-3
"""Relative difference of the final loss: what the tail of a top-k may cost."""

SIDE_PIXELS = 448
STUDENT = {
    "hidden_size": 256,
    "layers": 4,
    "intermediate_size": 768,
    "vocabulary_rows": 8192,
    "vision_hidden_size": 160,
    "vision_layers": 4,
}
TEACHER = {
    "hidden_size": 512,
    "heads": 8,
    "layers": 6,
    "intermediate_size": 1536,
    "vocabulary_rows": 8192,
    "vision_hidden_size": 192,
    "vision_layers": 5,
}
PEAKEDNESS = 12.0
"""Factor on the teacher's last norm: random weights alone give flat distributions, which no trained
teacher has and which no top-k holds."""


@dataclass
class World:
    """What all variants share."""

    folder: Path
    data: Path
    examples: list[Any]
    key: dict[str, Any]
    signals: dict[str, dict[str, Any]]
    steps: int
    batch_size: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2, help="of each variant in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("work/benchmarks/pipeline.json"))
    arguments = parser.parse_args()

    import torch

    with tempfile.TemporaryDirectory() as temporary:
        total = arguments.steps * arguments.rounds + 1  # the first step of each loads code
        world = make_world(Path(temporary), total, arguments.batch_size)
        names = (*VARIANTS, *(name for name in SIGNALS.values() if name not in VARIANTS))
        loops = {name: make_loop(world, name) for name in names}
        steps: dict[str, Callable[[int], float]] = {
            name: (naive_step(world, loop) if name == "naive" else our_step(loop))
            for name, loop in loops.items()
        }
        rows: list[dict[str, float]] = []
        losses = {name: [step(0)] for name, step in steps.items()}
        for number in range(arguments.rounds):
            seconds: dict[str, float] = {}
            first = 1 + number * arguments.steps
            for name, step in steps.items():
                started = time.perf_counter()
                losses[name] += [step(n) for n in range(first, first + arguments.steps)]
                seconds[name] = (time.perf_counter() - started) / arguments.steps
            rows.append(seconds)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in seconds.items())
            print(f"round {number + 1}, seconds a step: {shown}")
        vision = loops[VARIANTS[-1]].vision.facts
    variants = {name: summary(rows, name, losses[name]) for name in names}
    result = {
        "steps": total,
        "batch_size": arguments.batch_size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "student": STUDENT,
        "teacher": TEACHER,
        "rounds": rows,
        "vision_features": vision,
        "variants": variants,
        "signals": {kind: {**world.signals[kind], **variants[SIGNALS[kind]]} for kind in SIGNALS},
        "goals": goals(variants),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def show(result: dict[str, Any]) -> None:
    """The same as tables."""
    print(f"{'':34}{'s a step':>10}{'speed-up':>10}{'low':>8}{'high':>8}{'final loss':>13}")
    for name, row in result["variants"].items():
        ratio = row["speed_up"]
        print(
            f"{name:34}{row['seconds_a_step']:10.4f}{ratio['median']:9.2f}x{ratio['low']:8.2f}"
            f"{ratio['high']:8.2f}{row['final_loss']:13.6f}"
        )
    vision = result["vision_features"]
    print(
        f"making the vision features took {vision['seconds']:.2f} s once, for"
        f" {vision['samples']} samples ({vision['mebibytes']:.1f} MiB)"
    )
    for kind, one in result["signals"].items():
        kept = {name: one[name] for name in ("bytes_per_token", "tail_mass", "kl_nats")}
        print(f"{kind:8}{kept}")
    for one in result["goals"]:
        word = "met" if one["met"] else "MISSED"
        print(f"{word:7} {one['goal']}: {one['reached']:.3g} (goal {one['target']:g})")


def goals(variants: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures to reach, with what was reached."""
    ours, naive = variants[VARIANTS[-1]], variants["naive"]
    faster = ours["speed_up"]["median"]
    apart = abs(ours["final_loss"] / naive["final_loss"] - 1)
    exact = abs(variants[VARIANTS[1]]["final_loss"] / naive["final_loss"] - 1)
    return [
        {
            "goal": "x faster than the naive online loop",
            "reached": faster,
            "target": GOAL_SPEED_UP,
            "met": faster >= GOAL_SPEED_UP,
        },
        {
            "goal": "final loss from both caches, relative difference to the naive loop's",
            "reached": apart,
            "target": GOAL_LOSS,
            "met": apart <= GOAL_LOSS,
        },
        {
            "goal": "final loss with a live teacher, relative difference to the naive loop's",
            "reached": exact,
            "target": 1e-5,
            "met": exact <= 1e-5,
        },
    ]


def summary(rows: list[dict[str, float]], name: str, losses: list[float]) -> dict[str, Any]:
    """Median time a step, its ratio to the naive loop round by round, and the losses."""
    ratios = [row["naive"] / row[name] for row in rows]
    return {
        "seconds_a_step": median(row[name] for row in rows),
        "speed_up": {"median": median(ratios), "low": min(ratios), "high": max(ratios)},
        "final_loss": losses[-1],
        "losses": losses,
    }


def make_world(folder: Path, steps: int, batch_size: int) -> World:
    """Data, a teacher and a student with one tokenizer, and both caches of its distributions."""
    from limbeck.data.prepare import prepare
    from limbeck.data.samples import read_samples
    from limbeck.data.sources.screens import Screens
    from limbeck.labelling import label
    from limbeck.losses.divergence import Divergence
    from limbeck.models.build import build_model
    from limbeck.recipe.sections import Build, Labelling
    from limbeck.training.stage import make_examples

    prepare(Screens(train=24, validation=0, test=1), folder / "data")
    samples = read_samples(folder / "data", "train")
    texts = [
        part["text"] for s in samples for m in s.messages for part in m["content"] if "text" in part
    ]
    texts += [text for s in samples for text in s.references]
    for name, sizes in (("student", STUDENT), ("teacher", TEACHER)):
        build = Build.model_validate({"family": "qwen2_vl", "patch_size": 14, **sizes})
        build_model(build, texts, 0, folder / name)
    sharpen(folder / "teacher" / "model.safetensors")
    key = {"teacher": "benchmark"}
    signals: dict[str, dict[str, Any]] = {
        "live": {"bytes_per_token": None, "tail_mass": None, "kl_nats": None}
    }
    settings = Labelling(answers="gold", top_k=64)
    for kind in ("top_k", "hidden"):
        (folder / kind).mkdir()
        found = label(
            folder / kind,
            teacher=teacher_of(folder),
            samples=samples,
            data=folder / "data",
            settings=settings.model_copy(update={"signal": kind}),
            key=key,
            device="cpu",
        )["signals"]
        signals[kind] = {
            "bytes_per_token": found["bytes_per_token"],
            "tail_mass": found["tail_mass"]["1"] if kind == "top_k" else None,
            "kl_nats": found.get("kl_nats"),
        }
    examples = make_examples(samples, folder / "top_k", settings, [Divergence()])
    return World(folder, folder / "data", examples, key, signals, steps, batch_size)


def sharpen(path: Path) -> None:
    """Make a model with random weights as sure of its words as a trained one."""
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    (norm,) = (name for name in weights if name.endswith("model.norm.weight"))
    weights[norm] *= PEAKEDNESS
    save_file(weights, path, metadata={"format": "pt"})


def teacher_of(folder: Path) -> Any:
    """The teacher, with as many pixels as the student sees."""
    from limbeck.teachers.transformers import Transformers

    pixels = SIDE_PIXELS**2
    return Transformers(model=str(folder / "teacher"), min_pixels=pixels, max_pixels=pixels)


def make_loop(world: World, variant: str) -> Any:
    """The product's own training loop over a fresh student; the naive loop shares its state."""
    import torch

    from limbeck.losses.divergence import Divergence
    from limbeck.models.adapt import prepare_for_training
    from limbeck.models.load import load_model
    from limbeck.models.vocabulary import shared_vocabulary
    from limbeck.recipe.sections import ModelSection, Training
    from limbeck.training import examples
    from limbeck.training.job import Job
    from limbeck.training.loop import _Loop
    from limbeck.training.stage import cached_signal, live_signal

    # A real data set does not fit: what is prepared in one epoch is gone in the next.
    examples.CACHE_BYTES = 0
    pixels = SIDE_PIXELS**2
    section = ModelSection(
        model=str(world.folder / "student"), min_pixels=pixels, max_pixels=pixels
    )
    torch.manual_seed(0)
    student = load_model(section, device="cpu")
    prepare_for_training(student, adapter=None, freeze=("vision_tower", "projector"))
    rows = student.model.get_output_embeddings().weight.shape[0]
    training = Training.model_validate(
        {
            "steps": world.steps,
            "samples_per_step": world.batch_size,
            "samples_per_micro_batch": world.batch_size,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "cache_vision_features": variant in SIGNALS.values(),
        }
    )
    output = world.folder / variant.replace(" ", "-")
    output.mkdir()
    vocabulary = shared_vocabulary(student.tokenizer, student.tokenizer, rows, rows)
    losses = [Divergence()]
    job = Job(output, student, vocabulary, world.examples, world.data, losses, training, 0, variant)
    kind = next((kind for kind, name in SIGNALS.items() if name == variant), "top_k")
    if "live" in variant or variant in VARIANTS[:2]:
        session = teacher_of(world.folder).open(world.data, device="cpu")
        job.signals = live_signal(session, world.examples)
    else:
        job.signals = cached_signal(world.folder / kind, world.key, world.examples, kind, "cpu")
    loop = _Loop(job)
    loop.module.train()
    return loop


def our_step(loop: Any) -> Callable[[int], float]:
    """One step of the product; returns its loss."""

    def step(number: int) -> float:
        return loop._update(number, *loop._gradients(number)).loss

    return step


def naive_step(world: World, loop: Any) -> Callable[[int], float]:
    """What a first version does: everything in the step, heads on every position."""
    import torch

    from limbeck.data.tokens import collate
    from limbeck.models.load import load_model
    from limbeck.records import IGNORED

    student = loop.job.student
    teacher = load_model(teacher_of(world.folder), device="cpu")

    def batch_for(model: Any, indices: list[int]) -> Any:
        chosen = [world.examples[index] for index in indices]
        items = [model.encoder.encode(e.sample, world.data, e.answer) for e in chosen]
        return collate(items, pad_id=model.encoder.pad_id, side="right")

    def step(number: int) -> float:
        indices = list(loop.steps[number])
        batch = batch_for(student, indices)
        with torch.no_grad():
            taught = teacher.model(**teacher.place(batch_for(teacher, indices).inputs)).logits
        learnt = student.model(**student.place(batch.inputs)).logits
        shared = loop.job.vocabulary.of  # without the rows that only pad the vocabulary
        log_p_BLV, log_q_BLV = shared(taught).log_softmax(-1), shared(learnt).log_softmax(-1)
        rows_BL = (log_p_BLV.exp() * (log_p_BLV - log_q_BLV)).sum(-1)
        scored_BL = batch.targets_BL != IGNORED
        sums = (rows_BL * scored_BL).sum().reshape(1)
        tokens = int(scored_BL.sum())
        loop.accelerator.backward((sums / tokens).sum())
        return loop._update(number, sums.detach(), [tokens]).loss

    return step


if __name__ == "__main__":
    main()
