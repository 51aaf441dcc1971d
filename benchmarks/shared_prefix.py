"""What is it worth to compute a picture once for all questions on it, and is the result the same?

    python benchmarks/shared_prefix.py [--rounds 5] [--questions 1 2 5]

Training: a step of the product's own loop on ten questions, with each question in a sequence of its
own and with those on one picture in one sequence; the vision tower is frozen and either runs in the
step or its features are cached. Generation: ten answers of fixed length, from whole prompts and
from a shared beginning, both by the pair's student and by its teacher. The pair is that of
benchmarks/pipeline.py. All ways run in turn (A B A B ...) in one process, on the same batches;
pictures are prepared beforehand, as worker processes would. Writes
work/benchmarks/shared_prefix.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pipeline import SIDE_PIXELS, STUDENT, TEACHER, sharpen, teacher_of

ASKED = 10
"""Questions in a step and in a batch."""

NEW_TOKENS = 16
QUESTIONS = (
    "What is on the screen?",
    "Which application is it, and what is it for?",
    "What is in the upper half of the screen?",
    "What is in the lower half of the screen?",
    "How many buttons are there, and which of them are active?",
)

Run = Callable[[int], Any]
"""One step or batch, by its number; returns what has to be the same either way."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 2, 5], help="a picture")
    parser.add_argument("--output", type=Path, default=Path("work/benchmarks/shared_prefix.json"))
    arguments = parser.parse_args()

    import torch

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_models_and_pictures(folder)
        parts: dict[str, list[dict[str, Any]]] = {}
        for questions in arguments.questions:
            samples = asked(folder / "data", questions)
            label_gold(folder, samples, questions)
            for name, pair in pairs(folder, samples, questions, arguments.rounds + 1).items():
                found = in_turn(pair, arguments.rounds)
                parts.setdefault(name, []).append({"questions": questions, **found})
                show(name, parts[name][-1])
    result = {
        "threads": torch.get_num_threads(),
        "questions_a_step": ASKED,
        "new_tokens": NEW_TOKENS,
        "student": STUDENT,
        "teacher": TEACHER,
        "parts": parts,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def make_models_and_pictures(folder: Path) -> None:
    """The pair of benchmarks/pipeline.py, and pictures to ask about."""
    from limbeck.data.prepare import prepare
    from limbeck.data.samples import read_samples
    from limbeck.data.sources.screens import Screens
    from limbeck.models.build import build_model
    from limbeck.recipe.sections import Build

    prepare(Screens(train=ASKED, validation=0, test=1), folder / "data")
    samples = read_samples(folder / "data", "train")
    texts = [*QUESTIONS, *(text for sample in samples for text in sample.references)]
    for name, sizes in (("student", STUDENT), ("teacher", TEACHER)):
        build = Build.model_validate({"family": "qwen2_vl", "patch_size": 14, **sizes})
        build_model(build, texts, 0, folder / name)
    sharpen(folder / "teacher" / "model.safetensors")


def asked(data: Path, questions: int) -> list[Any]:
    """Ten questions: so many on each of as few pictures as it takes."""
    from limbeck.data.samples import read_samples

    made: list[Any] = []
    for sample in read_samples(data, "train", ASKED // questions):
        for number, question in enumerate(QUESTIONS[:questions]):
            parts = [{"type": "image"}, {"type": "text", "text": question}]
            message = {"role": "user", "content": parts}
            made.append(replace(sample, id=f"{sample.id}-{number}", messages=(message,)))
    return made


def label_gold(folder: Path, samples: Sequence[Any], questions: int) -> None:
    """The teacher's distributions along the references, for training from a cache."""
    from limbeck.labelling import label
    from limbeck.recipe.sections import Labelling

    label(
        folder / f"labels-{questions}",
        teacher=teacher_of(folder),
        samples=samples,
        data=folder / "data",
        settings=Labelling(answers="gold", top_k=64, batch_size=5),
        key={"teacher": "benchmark"},
        device="cpu",
    )


def pairs(
    folder: Path, samples: Sequence[Any], questions: int, steps: int
) -> dict[str, dict[str, Run]]:
    """By what is measured: the two ways of doing it."""
    made: dict[str, dict[str, Run]] = {}
    for name, cached in (("training step", False), ("training step, cached vision", True)):
        ways = (("apart", False), ("shared", True))
        made[name] = {
            way: training_step(folder, samples, questions, steps, share, cached)
            for way, share in ways
        }
    for model in ("student", "teacher"):
        made[f"generation, {model}"] = answering(folder, samples, model)
    return made


def training_step(
    folder: Path, samples: Sequence[Any], questions: int, steps: int, share: bool, cached: bool
) -> Run:
    """A step of the product's loop; both ways take the same steps, in the same order."""
    import torch

    from limbeck.losses.divergence import Divergence
    from limbeck.models.adapt import prepare_for_training
    from limbeck.models.load import load_model
    from limbeck.models.vocabulary import shared_vocabulary
    from limbeck.recipe.sections import Labelling, ModelSection, Training
    from limbeck.training.job import Job
    from limbeck.training.loop import _Loop
    from limbeck.training.stage import cached_signal, make_examples

    labels = folder / f"labels-{questions}"
    losses = [Divergence()]
    examples = make_examples(samples, labels, Labelling(answers="gold"), losses)
    pixels = SIDE_PIXELS**2
    section = ModelSection(model=str(folder / "student"), min_pixels=pixels, max_pixels=pixels)
    torch.manual_seed(0)
    student = load_model(section, device="cpu")
    prepare_for_training(student, adapter=None, freeze=("vision_tower", "projector"))
    rows = student.model.get_output_embeddings().weight.shape[0]
    training = Training.model_validate(
        {
            "steps": steps,
            "samples_per_step": ASKED,
            "samples_per_micro_batch": ASKED,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "share_prefix": True,
            "cache_vision_features": cached,
        }
    )
    output = Path(tempfile.mkdtemp(dir=folder))
    vocabulary = shared_vocabulary(student.tokenizer, student.tokenizer, rows, rows)
    title = "shared" if share else "apart"
    job = Job(output, student, vocabulary, examples, folder / "data", losses, training, 0, title)
    job.signals = cached_signal(labels, {"teacher": "benchmark"}, examples, "top_k", "cpu")
    loop = _Loop(job)
    loop.module.train()
    # Only now, so that the order of the samples is the same either way.
    job.training = training.model_copy(update={"share_prefix": share})
    for index in range(len(examples)):
        _ = loop.encoded[index]
    return lambda number: loop._update(number, *loop._gradients(number)).loss


def answering(folder: Path, samples: Sequence[Any], model: str) -> dict[str, Run]:
    """Ten answers of fixed length."""
    from limbeck.models.load import load_model
    from limbeck.recipe.sections import ModelSection

    pixels = SIDE_PIXELS**2
    section = ModelSection(model=str(folder / model), min_pixels=pixels, max_pixels=pixels)
    loaded = load_model(section, device="cpu")
    items = [loaded.encoder.encode(sample, folder / "data", None) for sample in samples]
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}

    def answer(share_prefix: bool) -> Run:
        return lambda _: loaded.generate(items, share_prefix=share_prefix, **options)

    return {"apart": answer(False), "shared": answer(True)}


def in_turn(pair: dict[str, Run], rounds: int) -> dict[str, Any]:
    """Both ways one after the other, round by round; the first round of each is not timed."""
    results: dict[str, list[Any]] = {way: [run(0)] for way, run in pair.items()}
    seconds: dict[str, list[float]] = {way: [] for way in pair}
    for number in range(1, rounds + 1):
        for way, run in pair.items():
            started = time.perf_counter()
            results[way].append(run(number))
            seconds[way].append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(seconds["apart"], seconds["shared"], strict=True)]
    return {
        "seconds": {way: median(times) for way, times in seconds.items()},
        "all_seconds": seconds,
        "speed_up": {"median": median(ratios), "low": min(ratios), "high": max(ratios)},
        **agreement(results["apart"], results["shared"]),
    }


def agreement(apart: list[Any], shared: list[Any]) -> dict[str, Any]:
    """Final losses, or whether all answers are the same."""
    if isinstance(apart[0], float):
        return {"final_loss": {"apart": apart[-1], "shared": shared[-1]}}
    return {"equal_answers": apart == shared}


def show(name: str, found: dict[str, Any]) -> None:
    """A line for each measurement."""
    ratio, seconds = found["speed_up"], found["seconds"]
    same = found.get("final_loss", found.get("equal_answers"))
    print(
        f"{name:30}{found['questions']} a picture: {seconds['apart']:.3f} s apart,"
        f" {seconds['shared']:.3f} s shared, {ratio['median']:.2f}x"
        f" ({ratio['low']:.2f} to {ratio['high']:.2f}), {same}"
    )


if __name__ == "__main__":
    main()
