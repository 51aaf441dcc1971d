"""Messages between Limbeck and a process that runs a model for it, and the loop of that process.

A message is a length (4 bytes, big-endian), so many bytes of JSON, and the raw little-endian arrays
that the JSON lists; nothing is ever unpickled:

    {"id": 1, "do": "load", ...}                                       {"id": 1, ...}
    {"id": 2, "do": "score", ..., "arrays": [["input_ids", "int32", [1, 20]], ...]}
                                                     {"id": 2, "arrays": [["logits", "float32", ...
    whatever could not be done                       {"id": 2, "error": "in words"}

The process is told what to do on its standard input and answers on its standard output; all else
that it prints goes to standard error. When its input ends, whoever asked has gone, and it goes too,
whatever it is at, with the processes that it started. This module needs numpy only.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn

import numpy as np

LARGEST_HEADER_BYTES = 1 << 24
LARGEST_ARRAY_BYTES = 1 << 34
SECONDS_FOR_FAREWELL = 10.0
DTYPES = ("float32", "int32", "int64", "bool", "uint8")

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class BrokenMessageError(Exception):
    """What was read is no message."""


def write_message(stream: IO[bytes], fields: Mapping[str, Any], arrays: Arrays) -> None:
    """One message with its arrays, in little-endian bytes."""
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    listed = [[name, str(array.dtype), list(array.shape)] for name, array in plain.items()]
    header = json.dumps({**fields, "arrays": listed}).encode()
    stream.write(struct.pack(">I", len(header)) + header)
    for array in plain.values():
        stream.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    stream.flush()


def read_message(stream: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The next message and its arrays; None where the stream ends.

    Raises:
        BrokenMessageError: it ends within a message, or holds something else.
    """
    start = stream.read(4)
    if not start:
        return None
    (length,) = struct.unpack(">I", start.ljust(4, b"\0"))
    if len(start) < 4 or not 2 <= length <= LARGEST_HEADER_BYTES:
        raise BrokenMessageError(f"a message does not begin with {start!r}")
    try:
        fields = json.loads(_exactly(stream, length))
        listed = [(str(n), str(d), [int(s) for s in shape]) for n, d, shape in fields["arrays"]]
    except (ValueError, TypeError, KeyError) as error:
        raise BrokenMessageError(f"a message's head is no JSON object ({error})") from error
    arrays: dict[str, Any] = {}
    for name, dtype, shape in listed:
        size = math.prod(shape) * (np.dtype(dtype).itemsize if dtype in DTYPES else 0)
        if dtype not in DTYPES or min(shape, default=0) < 0 or size > LARGEST_ARRAY_BYTES:
            raise BrokenMessageError(f"array {name!r} is said to be {dtype} {shape}")
        array = np.empty(shape, dtype=np.dtype(dtype).newbyteorder("<"))
        if size and (got := stream.readinto(array.reshape(-1).view(np.uint8))) < size:
            raise BrokenMessageError(f"it ends after {got} of {size} bytes of {name!r}")
        arrays[name] = array.astype(dtype, copy=False)
    return fields, arrays


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise BrokenMessageError(f"it ends after {len(data)} of {size} bytes")
    return data


Work = Callable[[Mapping[str, Any], Arrays], "tuple[dict[str, Any], Arrays]"]
"""What a message's fields and arrays become."""


def serve(work: Mapping[str, Work], *, farewell: Callable[[], None] | None = None) -> None:
    """Do what is asked by name on standard input until it ends; does not return.

    Args:
        work: what can be asked for.
        farewell: gives back what the end of processes does not; it has `SECONDS_FOR_FAREWELL`, and
            is left out where the work that is being done takes longer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asked
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not run into the messages
    requests = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nor may they read them
    waiting: queue.Queue[tuple[dict[str, Any], dict[str, Any]] | None] = queue.Queue()

    def read() -> None:  # in a thread, so that the end is seen while a model is busy
        try:
            while (message := read_message(requests)) is not None:
                waiting.put(message)
        except BrokenMessageError as error:
            print(f"cannot go on: {error}", file=sys.stderr)
        if farewell is not None:
            waiting.put(None)
            time.sleep(SECONDS_FOR_FAREWELL)
        _leave()

    threading.Thread(target=read, daemon=True).start()
    while True:
        message = waiting.get()
        if message is None:
            assert farewell is not None
            farewell()
            _leave()
        fields, arrays = message
        number = fields.get("id")
        try:
            answer, found = work[fields["do"]](fields, arrays)
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            answer, found = {"error": " ".join(words.split())}, {}
        try:
            write_message(replies, {"id": number, **answer}, found)
        except BrokenPipeError:
            _leave()


def _leave() -> NoReturn:
    sys.stderr.flush()
    if os.getpgrp() == os.getpid():  # ours alone, with all that we started
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)
