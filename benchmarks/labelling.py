"""How much faster is labelling in batches than one picture at a time?

    python benchmarks/labelling.py [--samples 64] [--batch-size 8] [--rounds 3]

Interleaves both (A B A B ...) in one process on a small Qwen2-VL with random weights and synthetic
screens: answers of 24 tokens and their top-k distributions. Prints each round and the ratio with
its spread, and writes work/benchmarks/labelling.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("work/benchmarks/labelling.json"))
    arguments = parser.parse_args()

    import torch

    from limbeck.data.prepare import prepare
    from limbeck.data.samples import read_samples
    from limbeck.data.sources.screens import Screens
    from limbeck.models.build import build_model
    from limbeck.recipe.sections import Build
    from limbeck.signals.top_k import from_logits
    from limbeck.teachers import Decoding, batches_by_length
    from limbeck.teachers.transformers import Transformers

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(Screens(train=arguments.samples, validation=0, test=1), folder / "data")
        samples = read_samples(folder / "data", "train")
        build_model(
            Build(family="qwen2_vl", layers=4, vision_layers=3),
            [text for s in samples for text in s.references],
            0,
            folder / "model",
        )
        teacher = Transformers(model=str(folder / "model")).open(folder / "data", device="cpu")

        def label(batch_size: int) -> float:
            started = time.perf_counter()
            for batch in batches_by_length(teacher, samples, batch_size):
                teacher.generate(batch, Decoding(24))
                for scored in teacher.score(batch, [s.references[0] for s in batch]):
                    from_logits(scored.logits_NV, 16, [1.0])
            return time.perf_counter() - started

        label(arguments.batch_size)  # first use loads code and fills caches
        rounds = []
        for number in range(arguments.rounds):
            batched, single = label(arguments.batch_size), label(1)
            rounds.append({"batched_seconds": batched, "single_seconds": single})
            print(f"round {number + 1}: batched {batched:.2f} s, one at a time {single:.2f} s")
    ratios = [row["single_seconds"] / row["batched_seconds"] for row in rounds]
    result = {
        "samples": arguments.samples,
        "batch_size": arguments.batch_size,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "speed_up": {"median": median(ratios), "low": min(ratios), "high": max(ratios)},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"batch {arguments.batch_size} is {median(ratios):.2f}x one at a time "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rounds)"
    )


if __name__ == "__main__":
    main()
