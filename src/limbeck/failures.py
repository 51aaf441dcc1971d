"""Whatever goes wrong in a command: one line on stderr and a stable exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout

import typer

from limbeck.errors import (
    INTERRUPTED,
    DataError,
    LimbeckError,
    MemoryExhaustedError,
    StoppedError,
    UsageError,
)
from limbeck.stop import StoppedAnywhere, unwind_on_signals

Emit = Callable[[str], None]


@contextmanager
def reported(debug: bool) -> Generator[Emit]:
    """Run a command's body; yields the function that writes its result to stdout.

    Everything else that is printed while the body runs goes to stderr, so that stdout holds the
    result alone.

    Raises:
        typer.Exit: with the exit code of what went wrong, after one line about it on stderr.
    """
    stdout = sys.stdout

    def emit(text: str) -> None:
        try:
            stdout.write(text + "\n")
            stdout.flush()
        except BrokenPipeError:
            # The reader (`| head`) has what it wanted; nothing more can be said to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())

    try:
        with redirect_stdout(sys.stderr), unwind_on_signals():
            yield emit
    except typer.Exit:
        raise
    except StoppedAnywhere as stopped:
        print(f"stopped by {stopped}: the same command goes on from here", file=sys.stderr)
        raise typer.Exit(StoppedError.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(_line(error), file=sys.stderr)
        raise typer.Exit(exit_code(error)) from None


def exit_code(error: BaseException) -> int:
    """The exit code for an exception, ours or not."""
    if isinstance(error, LimbeckError):
        return error.exit_code
    if _is_memory(error):
        return MemoryExhaustedError.exit_code
    if isinstance(error, OSError) and error.strerror:
        return DataError.exit_code
    return UsageError.exit_code if isinstance(error, typer.BadParameter) else 1


def _line(error: Exception) -> str:
    if isinstance(error, LimbeckError):
        text = f"error: {error}"
    elif isinstance(error, typer.BadParameter):
        text = f"error: {error.message}"
    elif _is_memory(error):
        text = (
            f"error: out of memory ({error}); "
            "lower samples_per_micro_batch, batch_size or max_pixels"
        )
    elif isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        text = f"error: {place}{error.strerror}; run the same command again once this is mended"
    else:
        text = (
            f"unexpected error: {type(error).__name__}: {error}; "
            "run again with --debug for the traceback, and please report it"
        )
    return " ".join(text.split()).encode(errors="backslashreplace").decode()


def _is_memory(error: BaseException) -> bool:
    """Python's own error, or torch's, which is no MemoryError and which must not be imported."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
