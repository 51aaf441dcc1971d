"""The process in which mlx-vlm runs; it shares no memory, and no Python, with Limbeck.

    python mlx_worker.py

It needs numpy, mlx and mlx_vlm, and nothing of Limbeck. It is told what to do on its standard input
and answers on its standard output, message by message; all else goes to standard error. A message
is a length (4 bytes, big-endian), so many bytes of JSON, and the raw arrays that the JSON lists:

    {"id": 1, "do": "load", "folder": "..."}                     {"id": 1, "bytes": 4096, ...}
    {"id": 2, "do": "generate", "max_new_tokens": 8, "temperature": 0, "seed": 0, "end_ids": [2],
     "arrays": [["input_ids", "int32", [1, 20]], ...]}           {"id": 2, "arrays": [["tokens", ...
    {"id": 3, "do": "score", "answer_tokens": 5, ...}            {"id": 3, "arrays": [["logits", ...
    whatever could not be done                                   {"id": 3, "error": "in words"}

When its input ends, whoever asked has gone, and it goes at once, whatever it is at.
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
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

LARGEST_HEADER_BYTES = 1 << 24
LARGEST_ARRAY_BYTES = 1 << 34
DTYPES = ("float32", "int32", "int64", "bool", "uint8")

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class BrokenMessageError(Exception):
    """What was read is no message."""


def write_message(stream: IO[bytes], fields: Mapping[str, Any], arrays: Arrays) -> None:
    """One message with its arrays, in little-endian bytes."""
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
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


class Model:
    """A model of mlx-vlm that answers and scores one sample at a time."""

    def __init__(self, folder: str) -> None:
        from pathlib import Path

        import mlx.core as mx
        from mlx.utils import tree_flatten
        from mlx_vlm.utils import load_model

        self.model = load_model(Path(folder))
        self.model.eval()
        parameters = [array for _, array in tree_flatten(self.model.parameters())]
        dtypes = {str(array.dtype).removeprefix("mlx.core.") for array in parameters}
        self.about = {
            "bytes": sum(array.nbytes for array in parameters),
            "dtype": ", ".join(sorted(dtypes)),
            "device": str(mx.default_device()),
        }

    def generate(self, fields: Mapping[str, Any], arrays: Arrays) -> Arrays:
        """The tokens of an answer, with the end token where it came."""
        from mlx_vlm.generate.ar import generate_step

        ids, features = self._inputs(arrays)
        ends, most = set(fields["end_ids"]), int(fields["max_new_tokens"])
        # Everything is said: mlx-vlm would fill gaps from the checkpoint's generation_config.json.
        steps = generate_step(
            ids,
            self.model,
            features.pop("pixel_values", None),
            None,
            max_tokens=most,
            temperature=float(fields["temperature"]),
            top_p=1.0,
            top_k=0,
            seed=int(fields["seed"]),
            **features,
        )
        tokens: list[int] = []
        for token, _ in steps:
            tokens.append(int(token))
            if tokens[-1] in ends or len(tokens) == most:
                break
        steps.close()
        return {"tokens": np.array(tokens, dtype=np.int32)}

    def score(self, fields: Mapping[str, Any], arrays: Arrays) -> Arrays:
        """Logits [N, R] that predict the last N tokens, over all rows of the head."""
        import mlx.core as mx
        from mlx_vlm.models.cache import make_prompt_cache

        ids, features = self._inputs(arrays)
        answer_tokens = int(fields["answer_tokens"])
        before_last = ids[:, :-1]
        embedded = self.model.get_input_embeddings(
            before_last, features.get("pixel_values"), mask=None, **_but(features, "pixel_values")
        )
        known = {k: v for k, v in embedded.to_dict().items() if v is not None}
        output = self.model.language_model(
            before_last,
            inputs_embeds=known.pop("inputs_embeds"),
            cache=make_prompt_cache(self.model.language_model),
            logits_to_keep=answer_tokens,
            **{**_but(features, "pixel_values"), **known},
        )
        logits_NR = output.logits[0, -answer_tokens:].astype(mx.float32)
        return {"logits": np.array(logits_NR)}

    @staticmethod
    def _inputs(arrays: Arrays) -> tuple[Any, dict[str, Any]]:
        import mlx.core as mx

        found = {name: mx.array(array) for name, array in arrays.items()}
        return found.pop("input_ids"), found


def _but(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Read ahead in a thread, so that the end of the input is seen while a model is busy."""
    waiting: queue.Queue[tuple[dict[str, Any], dict[str, Any]]] = queue.Queue()

    def read() -> None:
        try:
            while (message := read_message(requests)) is not None:
                waiting.put(message)
        except BrokenMessageError as error:
            print(f"mlx worker: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    model: Model | None = None
    while True:
        fields, arrays = waiting.get()
        number = fields.get("id")
        try:
            if fields["do"] == "load":
                model = Model(fields["folder"])
                write_message(replies, {"id": number, **model.about}, {})
                continue
            assert model is not None, "nothing is loaded"
            work = {"generate": model.generate, "score": model.score}[fields["do"]]
            write_message(replies, {"id": number}, work(fields, arrays))
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            write_message(replies, {"id": number, "error": " ".join(words.split())}, {})


def main() -> None:
    """Serve on standard input and output until the input ends."""
    # The folder of a script comes first among the places of modules, and ours holds an mlx.py.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != here]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asked
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not run into the messages
    _serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
