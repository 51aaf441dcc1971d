"""How long each stage takes, from stages like it that were finished in this work folder.

Two stages are alike where model, data and all settings that change the work of a unit are the same;
a unit is a sample (answered, labelled) or a sample of a step (trained on). From one such stage time
is scaled by units, from several a line is drawn through the smallest and the largest: what starting
takes, and what a unit takes. There is no other source: where nothing like it ran, time is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.planning.workload import Workload
from limbeck.recipe.sections import Training
from limbeck.stages import Stage
from limbeck.store import Store, canonical_json

NO_WORK = {
    *("steps", "epochs", "learning_rate", "muon_learning_rate", "weight_decay", "betas"),
    *("schedule", "warmup", "final_learning_rate", "clip_norm", "non_finite", "max_skipped"),
    *("log_every", "limit", "split", "seed", "checks", "metrics", "bootstrap", "confidence"),
    *("samples_per_step", "weight", "temperature", "temperatures", "scale", "grow"),
}
"""Fields, wherever they are, that change no unit's work, or hardly any."""
UNITS = {
    "student": "samples_seen",
    "teacher": "samples_seen",
    "labels": "labels",
    "predictions": "predictions",
    "teacher_signal": "samples",
    "fidelity": "samples",
    "features": "samples",
    "verbalisers": "samples_seen",
}
"""What the manifest's summary of a kind of stages counts its units by."""
MODELS = ("initial", "model", "teacher")
"""Names under which a stage reads the models that it runs; see `graph/`."""


@dataclass(frozen=True)
class Finished:
    """A finished stage, as far as times go."""

    key: str
    units: float
    seconds: float
    source: str


@dataclass(frozen=True)
class StageTime:
    """Seconds, and where they come from; or why they are unknown."""

    seconds: float | None = None
    source: str = ""
    unknown: str = ""
    measured: bool = False

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "seconds": self.seconds,
            "source": self.source or None,
            "measured": self.measured,
            "unknown": self.unknown or None,
        }


class Times:
    """Finished stages of a work folder, and what they say of planned ones.

    Args:
        store: whose stages are planned; those that are done there say what they took.
        finished: stages to compare with.
    """

    def __init__(self, store: Store, finished: Iterable[Finished]) -> None:
        self._store = store
        self._by_key: dict[str, list[Finished]] = {}
        for one in finished:
            self._by_key.setdefault(one.key, []).append(one)

    @staticmethod
    def of_manifests(store: Store) -> Times:
        """From what the work folder itself has."""
        return Times(store, finished_in(store, ""))

    def of(self, stage: Stage, works: Sequence[Workload]) -> StageTime:
        """A stage's."""
        if self._store.is_complete(stage.kind, stage.fingerprint):
            try:
                seconds = self._store.manifest(stage.kind, stage.fingerprint)["seconds"]
                return StageTime(float(seconds), "done", measured=True)
            except (LimbeckError, KeyError, TypeError, ValueError) as error:
                return StageTime(unknown=str(error))
        if stage.kind not in UNITS:
            return StageTime(unknown="nothing says before it runs")
        alike = sorted(self._by_key.get(planned_key(stage), ()), key=lambda one: one.units)
        if not alike:
            return StageTime(unknown="no stage like it was finished here")
        units = units_of(stage.kind, works)
        if units is None:
            return StageTime(unknown="the data stage counts the samples")
        least, most = alike[0], alike[-1]
        if most.units > least.units:
            each = max(0.0, (most.seconds - least.seconds) / (most.units - least.units))
            seconds = max(0.0, least.seconds + each * (units - least.units))
            return StageTime(seconds, f"{least.source} and {most.source}")
        return StageTime(most.seconds * units / most.units, f"{most.source}, scaled")


def finished_in(store: Store, prefix: str) -> list[Finished]:
    """Every finished stage that counts units; `prefix` begins what its source is called."""
    found: list[Finished] = []

    def resolve(key: str) -> Mapping[str, Any] | None:
        for kind in ("models", "teacher", "student"):
            if store.is_complete(kind, key):
                return store.manifest(kind, key)["identity"]
        return None

    for kind, name in UNITS.items():
        folder = store.root / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not store.is_complete(kind, path.name):
                continue
            try:
                manifest = store.manifest(kind, path.name)
                units = float(manifest["summary"][name])
                key, seconds = key_of(manifest["identity"], resolve), float(manifest["seconds"])
            except (LimbeckError, KeyError, TypeError, ValueError):
                continue
            if units > 0:
                found.append(Finished(key, units, seconds, f"{prefix}{kind}/{path.name}"))
    return found


Resolve = Callable[[str], "Mapping[str, Any] | None"]
"""From a fingerprint to the identity of that stage, where it is known."""


def key_of(identity: Mapping[str, Any], resolve: Resolve) -> str:
    """What two stages of like work have in common: kind, settings, models, and the data."""
    return canonical_json(_signature(identity, resolve))


def planned_key(stage: Stage) -> str:
    """`key_of` a planned stage."""
    known: dict[str, Mapping[str, Any]] = {}

    def note(one: Stage) -> None:
        known[one.fingerprint] = one.full_identity
        for read in one.reads.values():
            note(read)

    note(stage)
    return key_of(stage.full_identity, known.get)


def _signature(identity: Mapping[str, Any], resolve: Resolve) -> list[Any]:
    reads = identity["reads"]
    models: list[Any] = []
    for name in sorted(reads):
        if name.partition("/")[0] in MODELS:
            found = resolve(reads[name])
            models.append([name, _signature(found, resolve) if found else reads[name]])
    own = [identity["kind"], identity["format"], _cut(identity["fields"])]
    return [*own, reads.get("data"), models]


def units_of(kind: str, works: Sequence[Workload]) -> float | None:
    """The units of a planned stage; None before the samples are counted."""
    units: list[float] = []
    for work in works:
        samples = work.lengths.samples
        if kind in ("student", "teacher", "verbalisers"):
            assert work.training is not None, "a training says how"
            own = trained_samples(work.training, samples)
        else:
            own = None if samples is None else float(samples)
        if own is None:
            return None
        units.append(own)
    return max(units, default=None)


def trained_samples(training: Training, samples: int | None) -> float | None:
    """How many samples a training sees in all its steps; None where tokens decide, or nothing."""
    if training.steps is not None:
        if training.samples_per_step is None:
            return None
        return float(training.steps * training.samples_per_step)
    if samples is None or training.epochs is None:
        return None
    return float(math.ceil(samples * training.epochs))


def _cut(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _cut(one) for name, one in value.items() if name not in NO_WORK}
    if isinstance(value, list | tuple):
        return [_cut(one) for one in value]
    return value
