"""A few batches of every model, to see how long a run takes; `limbeck plan --measure`.

The recipe itself is run twice with few samples and steps, in a process and a temporary work folder
of its own, so that nothing of the real one is touched; finished data, built models and a tuned
teacher are lent to it. Two lengths tell what starting takes from what a sample takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError, UsageError
from limbeck.planning.times import Finished, Times, finished_in
from limbeck.recipe import Recipe, recipe_from
from limbeck.recipe.loading import set_field
from limbeck.stages import Stage
from limbeck.store import Store

BATCHES = (1, 3)
"""Of labelling and answering in the two runs; a training has as many steps and one more."""
LENT = ("data", "models", "teacher")
"""Kinds of finished stages that the micro-run reads where they are."""
ANYTHING_GOES = {
    "min_characters": 0,
    "max_repetition": 1.0,
    "must_finish": False,
    "refusals": False,
    "max_unfit_share": 1.0,
}
"""Checks of answers: a teacher that was tuned for two steps writes nothing sensible."""


def micro_run(
    recipe: Recipe, stages: Sequence[Stage], store: Store, problems: Sequence[LimbeckError]
) -> Times:
    """Run a recipe with few samples and steps, and note how long its stages took.

    Raises:
        UsageError: the data stage is not done, or the micro-run failed, with its last words.
        LimbeckError: the first of the plan's problems, which would end it.
    """
    if problems:
        raise problems[0]
    data = next(stage for stage in stages if stage.kind == "data")
    if not store.is_complete(data.kind, data.fingerprint):
        raise UsageError(
            "a micro-run needs the data",
            where="--measure",
            mend="run limbeck data RECIPE first",
        )
    found: list[Finished] = finished_in(store, "")
    for batches in BATCHES:
        with tempfile.TemporaryDirectory(prefix="limbeck-plan-") as temporary:
            folder = Path(temporary)
            work = Store(folder / "work")
            _lend(store, work, stages)
            cut = shortened(recipe, folder / "work", batches)
            path = folder / "recipe.json"
            path.write_text(json.dumps(cut.model_dump(mode="json")), encoding="utf-8")
            _run(path)
            found += [one for one in finished_in(work, "micro-run: ") if _is_own(work, one)]
    return Times(store, found)


def shortened(recipe: Recipe, work: Path, batches: int) -> Recipe:
    """The recipe with so many batches of everything, on the first seed, without a benchmark."""
    values = recipe.model_dump(mode="json")
    steps = batches + 1
    needed = recipe.training.samples_per_step or 1
    changes: dict[str, Any] = {
        "work": str(work),
        "seeds": [recipe.seeds[0]],
        "label.limit": max(batches * recipe.label.batch_size, min(needed, 64)),
        "label.checks": ANYTHING_GOES,
        "evaluate.limit": batches * recipe.evaluate.batch_size,
        "training.steps": steps,
        "benchmark.models": [],
    }
    if getattr(recipe.teacher, "fine_tune", None) is not None:
        changes["teacher.fine_tune.training.steps"] = steps
    for number, loss in enumerate(values["losses"]):
        if "verbalisers" in loss:
            changes[f"losses.{number}.verbalisers.steps"] = steps
    for name, value in changes.items():
        set_field(values, name, value, where="--measure")
    return recipe_from(values)


def _lend(store: Store, work: Store, stages: Sequence[Stage]) -> None:
    for stage in stages:
        if stage.kind in LENT and store.is_complete(stage.kind, stage.fingerprint):
            target = work.folder(stage.kind, stage.fingerprint)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(store.folder(stage.kind, stage.fingerprint).resolve())


def _is_own(work: Store, one: Finished) -> bool:
    """Whether the micro-run made it itself."""
    return not (work.root / one.source.removeprefix("micro-run: ")).is_symlink()


def _run(path: Path) -> None:
    command = [sys.executable, "-P", "-m", "limbeck", "evaluate", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = next((line for line in done.stderr.splitlines()[::-1] if line.strip()), "no word")
        raise UsageError(
            f"the micro-run ended with exit code {done.returncode} ({last.strip()[:300]})",
            where="--measure",
            mend="mend that, make the label stage first, or plan without --measure",
        )
