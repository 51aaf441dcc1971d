"""Several ranks on one labelling job: each has a share of the batches and a folder of its own.

Rank 0 works in the stage's folder, rank r in `rank-r` below it. A rank's journal holds a label only
after its signals are on disk, so the labels of all journals together say what is done, whoever did
it and in however many runs. When nothing is missing, rank 0 takes the others' files to its own.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from limbeck import journal
from limbeck.data.labels import label_from
from limbeck.records import Label, Sample
from limbeck.signals.shard import held_samples, shard_name

JOURNAL = "labels.jsonl"
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Share:
    """What this rank does of a job whose files are in `stage`."""

    stage: Path
    rank: int = 0
    ranks: int = 1

    @classmethod
    def of_this_rank(cls, stage: Path) -> Share:
        """By what torchrun and accelerate launch say."""
        rank, ranks = (int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
        return cls(stage, rank, ranks)

    @property
    def folder(self) -> Path:
        """Where this rank writes."""
        return self.stage if self.rank == 0 else self.stage / f"rank-{self.rank}"

    def of(self, batches: Sequence[list[Sample]]) -> list[list[Sample]]:
        """Every so many-th batch, so that all ranks have long and short ones."""
        return list(batches[self.rank :: self.ranks])

    def note(self, labels: Sequence[Label]) -> None:
        """Append to this rank's journal."""
        if labels:
            journal.append(self.folder / JOURNAL, [asdict(row) for row in labels])

    def done(self, signal_format: str | None) -> dict[str, Label]:
        """Labels that are finished, of all ranks and earlier runs, by sample id.

        Args:
            signal_format: of the signals that valid labels need; a label whose shard was torn is
                not done. None where no signals are kept.
        """
        rows = self._journalled()
        if signal_format is not None:
            held = {i for f in self._folders for i in held_samples(f, signal_format)}
            rows = [row for row in rows if not row.valid or row.sample_id in held]
        return {row.sample_id: row for row in rows}

    @property
    def _folders(self) -> list[Path]:
        return [self.stage, *sorted(self.stage.glob("rank-*"))]

    def _journalled(self) -> list[Label]:
        return [
            label_from(row)
            for folder in self._folders
            for row in journal.read(folder / JOURNAL, own=folder == self.folder)
        ]

    def gather(self, wanted: Sequence[str], signal_format: str | None) -> dict[str, Label]:
        """On rank 0: wait until nothing is missing, and take the other ranks' files.

        Args:
            wanted: ids of all samples of the job.
            signal_format: as in `done`.

        Returns:
            All labels, by sample id.
        """
        while not {row.sample_id for row in self._journalled()} >= set(wanted):
            time.sleep(POLL_SECONDS)
        done = self.done(signal_format)
        for folder in sorted(self.stage.glob("rank-*")):
            for shard in sorted(folder.glob("signals-*")):
                numbers = range(len(list(self.stage.glob("signals-*"))) + 1)
                free = (self.stage / shard_name(number) for number in numbers)
                shard.rename(next(path for path in free if not path.exists()))
        return done

    def tidy(self) -> None:
        """Remove the journals and folders that a finished stage does not need."""
        (self.stage / JOURNAL).unlink(missing_ok=True)
        for folder in self.stage.glob("rank-*"):
            shutil.rmtree(folder)
