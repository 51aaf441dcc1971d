"""Stage folders on disk: fingerprint, lock, atomic write, manifest written last.

A stage works in `<kind>/<fingerprint>-partial/`, which survives a kill so that the next run goes
on from it. When it is done the manifest is written, everything is flushed to disk, and the folder
is renamed to `<kind>/<fingerprint>/`. A folder without that name does not exist for readers.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from limbeck.errors import DataError, UsageError

MANIFEST = "MANIFEST.json"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no free choice of white space, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def content_key(value: Any) -> str:
    """SHA-256 of a JSON-like value: for keys that many values must not share."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits that identify a JSON-like value."""
    return content_key(value)[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Raises:
        DataError: the disk is full, the folder cannot be written to, or any other I/O failure;
            names the path, and the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable and with stable key order."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_error(path: Path, error: OSError) -> DataError:
    """The error to raise when a write failed, with the mend for the usual causes."""
    mends = {
        errno.ENOSPC: "free disk space and run the same command again",
        errno.EACCES: "choose a work folder you may write to (--set work=PATH)",
        errno.EROFS: "choose a work folder you may write to (--set work=PATH)",
    }
    mend = mends.get(error.errno or 0, "mend the disk and run the same command again")
    return DataError(f"cannot write ({error.strerror or error})", where=str(path), mend=mend)


def fsync_tree(folder: Path) -> None:
    """Flush every file of a folder, and the folders themselves, to disk."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_symlink():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass
class StageFolder:
    """A stage's working folder while it is being made; `summary` ends up in the manifest."""

    path: Path
    summary: dict[str, Any] = field(default_factory=lambda: {})


@dataclass(frozen=True)
class Store:
    """All stage folders under one work folder."""

    root: Path

    def folder(self, kind: str, key: str) -> Path:
        """Where the finished stage is, or will be."""
        return self.root / kind / key

    def is_complete(self, kind: str, key: str) -> bool:
        """Whether a finished stage folder with a manifest exists; does not read the files."""
        return (self.folder(kind, key) / MANIFEST).is_file()

    def manifest(self, kind: str, key: str) -> dict[str, Any]:
        """The manifest of a finished stage.

        Raises:
            DataError: it is missing, torn, or belongs to another fingerprint.
        """
        path = self.folder(kind, key) / MANIFEST
        mend = f"remove {path.parent} and run again"
        try:
            manifest: Any = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise DataError("stage is not finished", where=str(path.parent)) from error
        except (OSError, ValueError) as error:
            raise DataError(
                f"manifest cannot be read ({error})", where=str(path), mend=mend
            ) from error
        if not isinstance(manifest, dict):
            raise DataError("manifest is not a JSON object", where=str(path), mend=mend)
        found = cast(dict[str, Any], manifest)
        if found.get("fingerprint") != key:
            raise DataError(f"manifest is not that of {kind}/{key}", where=str(path), mend=mend)
        return found

    def open(self, kind: str, key: str, *, contents: bool = True) -> Path:
        """The folder of a finished stage after its files were checked against the manifest.

        Sizes are always checked; `contents` adds the SHA-256 of every file.

        Raises:
            DataError: a file is missing, truncated or changed.
        """
        folder, manifest = self.folder(kind, key), self.manifest(kind, key)
        mend = f"remove {folder} and run again"
        for name, expected in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                raise DataError("file of a finished stage is missing", where=str(path), mend=mend)
            if path.stat().st_size != expected["bytes"]:
                raise DataError("file of a finished stage is truncated", where=str(path), mend=mend)
            if contents and file_sha256(path) != expected["sha256"]:
                raise DataError("file of a finished stage has changed", where=str(path), mend=mend)
        return folder

    @contextmanager
    def make(
        self, kind: str, key: str, *, identity: dict[str, Any], wait: bool = True
    ) -> Generator[StageFolder | None]:
        """Hold the stage's lock and yield its working folder; on a clean exit, publish it.

        Yields None when another process finished the same stage while this one waited. When the
        body raises, the working folder stays for the next run to go on from.

        Args:
            kind: folder name of the stage.
            key: its fingerprint.
            identity: what the fingerprint was made of; goes into the manifest.
            wait: False raises UsageError at once when another process holds the lock.
        """
        final = self.folder(kind, key)
        partial = final.with_name(f"{key}-partial")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(final.parent, error) from error
        with self._lock(final.with_name(f".{key}.lock"), wait):
            if self.is_complete(kind, key):
                yield None
                return
            started = time.time()
            try:
                partial.mkdir(exist_ok=True)
            except OSError as error:
                raise write_error(partial, error) from error
            stage = StageFolder(partial)
            yield stage
            try:
                write_json(
                    partial / MANIFEST,
                    {
                        "stage": kind,
                        "fingerprint": key,
                        "identity": identity,
                        "files": _listing(partial),
                        "summary": stage.summary,
                        "seconds": round(time.time() - started, 3),
                        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                        "versions": versions(),
                    },
                )
                fsync_tree(partial)
                if final.exists():
                    shutil.rmtree(final)  # a folder without a manifest is nobody's result
                partial.rename(final)
            except OSError as error:
                raise write_error(partial, error) from error

    @contextmanager
    def _lock(self, path: Path, wait: bool) -> Generator[None]:
        try:
            stream = path.open("a")
        except OSError as error:
            raise write_error(path, error) from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise UsageError(
                    "another process is working on this stage",
                    where=str(path),
                    mend="wait for it to end",
                ) from error
            yield


def versions() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for name in ("limbeck", "torch", "transformers", "peft", "accelerate", "datasets", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
