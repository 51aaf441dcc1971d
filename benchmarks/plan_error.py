"""How far is a plan's memory from what stages take?

    python benchmarks/plan_error.py [--cases full_bf16,labels] [--repeats 2]

Builds small models of several families, sizes and settings; plans a stage of each, then makes that
stage in a process of its own and takes the growth of its resident memory at the peak (after one
rehearsal on a model of almost no size, so that libraries are loaded). The plan is made before the
stage, with the data at hand. Writes work/benchmarks/plan.json. On the CPU: what a GPU's allocator
adds has never been measured here.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

TINY = {
    "family": "qwen2_vl",
    "hidden_size": 32,
    "layers": 1,
    "heads": 2,
    "key_value_heads": 1,
    "intermediate_size": 32,
    "vision_hidden_size": 32,
    "vision_layers": 1,
    "vision_heads": 2,
}
SMALL = {
    "family": "qwen2_vl",
    "hidden_size": 384,
    "layers": 6,
    "heads": 6,
    "key_value_heads": 2,
    "intermediate_size": 1536,
    "vision_hidden_size": 256,
    "vision_layers": 4,
    "vision_heads": 4,
    "patch_size": 8,
}
LARGER = {**SMALL, "hidden_size": 768, "heads": 12, "intermediate_size": 3072}
WIDE = {**SMALL, "vocabulary_rows": 65_536}
LLAVA = {**SMALL, "family": "llava", "patch_size": 16, "layers": 8}
TRAINING = {"steps": 2, "samples_per_step": 8, "samples_per_micro_batch": 8, "precision": "fp32"}
ADAPTED = {"freeze": ["vision_tower", "projector"], "adapter": {"rank": 8}}
PLAIN = [{"kind": "cross_entropy"}]
BOTH = [{"kind": "cross_entropy"}, {"kind": "divergence"}]

ALLOCATORS: dict[str, dict[str, str]] = {
    "gives back": {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TOP_PAD_": "0"},
    "as it is": {},
}
"""How the C library's allocator is set: to return what is freed at once, so that what is resident
is what tensors hold; or left alone, which shows what its gaps cost."""

Case = tuple[str, dict[str, Any]]
CASES: dict[str, Case] = {
    "full_fp32": ("student", {"student": {"build": SMALL}}),
    "full_bf16": ("student", {"student": {"build": SMALL}, "training.precision": "bf16"}),
    "larger_fp32": ("student", {"student": {"build": LARGER}, "training.samples_per_step": 2}),
    "larger_muon": ("student", {"student": {"build": LARGER}, "training.optimizer": "muon"}),
    "checkpointed": (
        "student",
        {"student": {"build": SMALL}, "training.gradient_checkpointing": True},
    ),
    "accumulated": (
        "student",
        {"student": {"build": LARGER}, "training.samples_per_micro_batch": 2},
    ),
    "frozen_tower": ("student", {"student": {"build": SMALL, "freeze": ADAPTED["freeze"]}}),
    "lora_bf16_weights": (
        "student",
        {
            "student": {"build": LARGER, "adapter": ADAPTED["adapter"], "dtype": "bfloat16"},
            "training.precision": "bf16",
        },
    ),
    "lora_fp32": ("student", {"student": {"build": LARGER, "adapter": ADAPTED["adapter"]}}),
    "wide_vocabulary": ("student", {"student": {"build": WIDE}, "losses": PLAIN}),
    "wide_live_teacher": (
        "student",
        {
            "student": {"build": WIDE},
            "teacher.build": WIDE,
            "losses": BOTH,
            "label.signal": "live",
        },
    ),
    "eager": ("student", {"student": {"build": SMALL, "attention": "eager"}}),
    "llava": ("student", {"student": {"build": LLAVA}}),
    "qwen2_5_vl": ("student", {"student": {"build": {**SMALL, "family": "qwen2_5_vl"}}}),
    "qwen3_vl": ("student", {"student": {"build": {**SMALL, "family": "qwen3_vl"}}}),
    "labels": ("labels", {"teacher.build": LARGER, "losses": BOTH, "label.signal": "top_k"}),
    "labels_wide": ("labels", {"teacher.build": WIDE, "losses": BOTH, "label.signal": "top_k"}),
    "answers": ("predictions", {"student": {"build": LARGER}, "evaluate.models": ["baseline"]}),
}
COMMANDS = {"student": "train", "labels": "label", "predictions": "evaluate"}


def recipe_of(work: Path, changes: dict[str, Any], *, tiny: bool = False) -> Any:
    """A recipe with one arm; `tiny` keeps its settings with models of almost no size."""
    from limbeck.recipe import recipe_from
    from limbeck.recipe.loading import set_field

    values: dict[str, Any] = {
        "name": "plan-error",
        "work": str(work),
        "seeds": [0],
        "data": {
            "source": "screens",
            "train": 16,
            "validation": 0,
            "test": 8,
            "width": 256,
            "height": 256,
        },
        "teacher": {"backend": "transformers", "build": TINY},
        "student": {"build": TINY},
        "label": {"answers": "gold", "signal": "none", "batch_size": 8, "max_new_tokens": 16},
        "losses": PLAIN,
        "training": TRAINING,
        "evaluate": {"models": ["student"], "metrics": ["rouge_l"], "max_new_tokens": 16},
        "benchmark": {"models": []},
    }
    values = copy.deepcopy(values)
    for name, value in copy.deepcopy(changes).items():
        set_field(values, name, value, where="case")
    if tiny:
        for part in ("teacher", "student"):
            own = values[part]["build"]
            rows = own.get("vocabulary_rows") and 512
            values[part]["build"] = {**TINY, "family": own["family"], "vocabulary_rows": rows}
    return recipe_from(values)


def prepare(recipe: Any, kind: str) -> None:
    """Make every stage before the one that is measured."""
    from limbeck import pipeline
    from limbeck.graph import graph_of
    from limbeck.store import Store

    store = Store(Path(recipe.work))
    stages = pipeline._until(graph_of(recipe).stages, COMMANDS[kind])
    for stage in stages:
        if stage.kind == kind:
            return
        if not store.is_complete(stage.kind, stage.fingerprint):
            pipeline._make(store, stage, 0)


def measure(case: str, folder: Path) -> dict[str, Any]:
    """In the process that was started for it: rehearse, then make the stage."""
    import shutil

    from limbeck import pipeline
    from limbeck.benchmark.memory import gauge

    kind, changes = CASES[case]
    pipeline.run(recipe_of(folder / "tiny", changes, tiny=True), until=COMMANDS[kind])
    shutil.copytree(folder / "work", folder / "again", dirs_exist_ok=True)
    recipe = recipe_of(folder / "again", changes)
    memory = gauge("cpu")
    memory.settle()
    before = memory.current_bytes()
    memory.reset_peak()
    started = time.monotonic()
    pipeline.run(recipe, until=COMMANDS[kind])
    seconds = time.monotonic() - started
    (found,) = memory.peaks()
    shutil.rmtree(folder / "again")
    shutil.rmtree(folder / "tiny")
    return {
        "runtime_bytes": before,
        "bytes": found.bytes - before,
        "seconds": seconds,
        "memory_kind": found.kind,
        "memory_method": memory.method,
    }


def planned(recipe: Any, kind: str) -> dict[str, Any]:
    """What the plan says of the stage."""
    from limbeck.pipeline import build_plan

    plan = build_plan(recipe)
    (row,) = [one for one in plan.describe()["stages"] if one["kind"] == kind]
    return row["memory"]


def compare(case: str) -> dict[str, Any]:
    """Plan and measurement of one case."""
    kind, changes = CASES[case]
    with tempfile.TemporaryDirectory(prefix="limbeck-plan-") as temporary:
        folder = Path(temporary)
        recipe = recipe_of(folder / "work", changes)
        _run("--prepare", case, folder)
        plan = planned(recipe, kind)
        measured = {}
        for name, environment in ALLOCATORS.items():
            _run("--measure", case, folder, **environment)
            measured[name] = json.loads((folder / "measured.json").read_text())
    return {"stage": kind, "planned": plan, "measured": measured}


def _run(option: str, case: str, folder: Path, **environment: str) -> None:
    command = [sys.executable, __file__, option, case, "--folder", str(folder)]
    own = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=own)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--output", type=Path, default=Path("work/benchmarks/plan.json"))
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        kind, changes = CASES[arguments.prepare]
        prepare(recipe_of(arguments.folder / "work", changes), kind)
        return
    if arguments.measure:
        found = measure(arguments.measure, arguments.folder)
        (arguments.folder / "measured.json").write_text(json.dumps(found))
        return
    cases: dict[str, Any] = {}
    for case in arguments.cases.split(","):
        cases[case] = one = compare(case)
        plan = one["planned"]["bytes"]
        exact, default = (one["measured"][name]["bytes"] for name in ALLOCATORS)
        one["error"], one["error_with_gaps"] = plan / exact - 1, plan / default - 1
        parts = ", ".join(f"{p['name']} {p['bytes'] / 2**20:.0f}" for p in one["planned"]["parts"])
        print(
            f"{case:<18} planned {plan / 2**20:5.0f} MiB, measured {exact / 2**20:5.0f} MiB"
            f" ({one['error']:+.0%}), with gaps {default / 2**20:5.0f}  ({parts})",
            flush=True,
        )
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(summary(cases), indent=1) + "\n")
    result = summary(cases)
    print(f"median error {result['median_error']:.0%}, largest {result['largest_error']:.0%}")


def summary(cases: dict[str, Any]) -> dict[str, Any]:
    """The cases with their errors: sizes without sign, and the one furthest below."""
    import torch

    errors = [one["error"] for one in cases.values()]
    gaps = [
        one["measured"]["as it is"]["bytes"] / one["measured"]["gives back"]["bytes"]
        for one in cases.values()
    ]
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cases": cases,
        "median_error": median(abs(error) for error in errors),
        "largest_error": max(abs(error) for error in errors),
        "most_below": min(errors),
        "gaps_median": median(gaps),
        "gaps_largest": max(gaps),
    }


if __name__ == "__main__":
    main()
