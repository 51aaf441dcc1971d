"""One small hierarchy: every error says what, where and the mend, and has an exit code.

Each child also inherits from the standard exception that a Python caller would expect.
"""

from __future__ import annotations


class LimbeckError(Exception):
    """Root of every error that Limbeck raises on purpose.

    Args:
        what: what is wrong, in one sentence without a full stop.
        where: a file with its line, a path in the recipe, or a sample id.
        mend: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(what)

    def __str__(self) -> str:
        prefix = f"{self.where}: " if self.where else ""
        suffix = f"; {self.mend}" if self.mend else ""
        return " ".join(f"{prefix}{self.what}{suffix}".split())


class UsageError(LimbeckError, ValueError):
    """The command line or the recipe asks for something that cannot be."""

    exit_code = 2


class DataError(LimbeckError, ValueError):
    """The user's data, or a stage folder on disk, is not what it should be."""

    exit_code = 3


class TeacherError(LimbeckError, RuntimeError):
    """The teacher cannot be reached, or what it answers cannot be used."""

    exit_code = 4


class NonFiniteError(LimbeckError, ArithmeticError):
    """A loss or a gradient is NaN or infinite; nothing was updated with it."""

    exit_code = 5


class MemoryExhaustedError(LimbeckError, MemoryError):
    """The device's memory does not hold even one sample."""

    exit_code = 6


class GuardError(LimbeckError, RuntimeError):
    """A guard of an encoder study fired: the figures would mean nothing."""

    exit_code = 7


class StoppedError(LimbeckError, RuntimeError):
    """A signal asked the run to stop; its state was saved and the same command continues it."""

    exit_code = 75


INTERRUPTED = 130
"""Exit code after Ctrl-C."""
