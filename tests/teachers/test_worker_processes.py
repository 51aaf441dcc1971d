"""A teacher's process: what it says reaches us whole, and whatever it does wrong ends in words."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from limbeck.errors import TeacherError
from limbeck.teachers import workers
from limbeck.teachers.workers.process import WorkerProcess
from limbeck.teachers.workers.worker_messages import (
    BrokenMessageError,
    read_message,
    write_message,
)

MESSAGES = Path(workers.__file__).parent

GOOD = """
def add(fields, arrays):
    return {"twice": fields["number"] * 2}, {"sum": arrays["a"] + arrays["b"]}

def loud(fields, arrays):
    print("this goes astray")
    print("and this is a warning", file=sys.stderr, flush=True)
    return {}, {}

def fail(fields, arrays):
    raise ValueError("no such\\n  thing")

def hang(fields, arrays):
    time.sleep(600)

def crash(fields, arrays):
    print("about to crash", file=sys.stderr, flush=True)
    os.kill(os.getpid(), 9)

def leave(fields, arrays):
    print("not enough memory", file=sys.stderr, flush=True)
    os._exit(3)

def start(fields, arrays):
    return {"pid": subprocess.Popen(["sleep", "600"]).pid}, {}

serve({f.__name__: f for f in (add, loud, fail, hang, crash, leave, start)})
"""

GARBAGE = 'os.write(1, b"Loading weights... done"); time.sleep(600)'
HUGE = 'os.write(1, b"\\x00\\x00\\x00\\x02[]"); time.sleep(600)'
WRONG_ORDER = """
for number in (7, 8):
    fields, _ = read_message(sys.stdin.buffer)
    write_message(sys.stdout.buffer, {"id": number}, {})
"""
TORN = """
read_message(sys.stdin.buffer)
whole = io.BytesIO()
write_message(whole, {"id": 1}, {"logits": np.zeros((10, 10), np.float32)})
sys.stdout.buffer.write(whole.getvalue()[:-4])
sys.stdout.buffer.flush()
"""


@pytest.fixture
def worker(tmp_path: Path):
    started: list[WorkerProcess] = []

    def start(body: str, timeout_seconds: float = 60.0) -> WorkerProcess:
        head = (
            "import io, os, subprocess, sys, time\nimport numpy as np\n"
            f"sys.path.insert(0, {str(MESSAGES)!r})\n"
            "from worker_messages import read_message, serve, write_message\n"
        )
        script = tmp_path / f"worker{len(started)}.py"
        script.write_text(head + body)
        started.append(
            WorkerProcess([sys.executable, "-u", script], timeout_seconds=timeout_seconds)
        )
        return started[-1]

    yield start
    for process in started:
        process.close()
        assert process.process.returncode is not None


Start = Callable[..., WorkerProcess]


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "bool", "uint8"])
def test_arrays_cross_as_they_are(dtype: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": (rng.normal(size=(3, 4, 2)) * 50).astype(dtype),
        "strided": (rng.normal(size=(6, 6)) * 50).astype(dtype)[::2, ::3],
        "none": np.zeros((0, 5), dtype=dtype),
        "one": np.array(7).astype(dtype),
    }
    pipe = io.BytesIO()
    write_message(pipe, {"id": 3, "text": "é\n"}, arrays)
    pipe.seek(0)
    message = read_message(pipe)
    assert message is not None
    fields, found = message
    assert (fields["id"], fields["text"]) == (3, "é\n")
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
    assert read_message(pipe) is None


@pytest.mark.parametrize(
    "listed",
    ['[["a","object",[1]]]', '[["a","float32",[-1]]]', '[["a","float32",[1099511627776]]]', "7"],
)
def test_arrays_that_cannot_be_are_refused_before_they_are_read(listed: str) -> None:
    header = b'{"id":1,"arrays":' + listed.encode() + b"}"
    with pytest.raises(BrokenMessageError):
        read_message(io.BytesIO(len(header).to_bytes(4, "big") + header + bytes(64)))


def test_it_answers_in_turn_and_what_it_prints_does_no_harm(worker: Start) -> None:
    process = worker(GOOD)
    for number in range(3):
        process.ask("loud")
        a = np.full((500, 1000), number, dtype=np.float32)  # more than a pipe holds
        fields, arrays = process.ask("add", {"a": a, "b": a}, number=number)
        assert fields["twice"] == 2 * number
        assert (arrays["sum"] == 2 * number).all()


def test_what_it_cannot_do_is_told_and_it_goes_on(worker: Start) -> None:
    process = worker(GOOD)
    with pytest.raises(TeacherError, match="ValueError: no such thing"):
        process.ask("fail")
    with pytest.raises(TeacherError, match="KeyError: 'nothing'"):
        process.ask("nothing")
    a = np.ones(2, dtype=np.float32)
    assert process.ask("add", {"a": a, "b": a}, number=1)[0]["twice"] == 2


def test_one_that_hangs_is_ended_after_the_time_that_it_has(worker: Start) -> None:
    process = worker(GOOD, timeout_seconds=2.0)
    start = time.monotonic()
    with pytest.raises(TeacherError, match="did not answer within 2 seconds"):
        process.ask("hang")
    assert time.monotonic() - start < 30
    assert process.process.poll() is not None


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("crash", r"has ended \(signal 9\); it last said: about to crash"),
        ("leave", r"has ended \(exit code 3\); it last said: not enough memory"),
    ],
)
def test_one_that_dies_leaves_its_last_words(worker: Start, do: str, words: str) -> None:
    process = worker(GOOD)
    with pytest.raises(TeacherError, match=words) as caught:
        process.ask(do)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (GARBAGE, "answered with what is no message: a message does not begin with b'Load'"),
        (HUGE, "answered with what is no message: a message's head"),
        (WRONG_ORDER, "answered message 7 when 1 was asked last"),
        (TORN, "answered with what is no message: it ends after 396 of 400 bytes"),
    ],
    ids=["garbage", "no-object", "wrong-order", "torn"],
)
def test_nonsense_is_no_answer(worker: Start, body: str, words: str) -> None:
    process = worker(body)
    with pytest.raises(TeacherError, match=words):
        process.ask("add", number=1)
    assert process.process.poll() is not None


def test_a_python_that_is_not_there_is_named() -> None:
    with pytest.raises(TeacherError, match="cannot be started") as caught:
        WorkerProcess(["/nowhere/python", "x.py"], timeout_seconds=1.0)
    assert caught.value.where == "/nowhere/python"


def test_the_python_may_be_below_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "environment").symlink_to(sys.prefix)
    monkeypatch.setenv("HOME", str(tmp_path))
    process = WorkerProcess.of(
        "mlx_worker.py", python="~/environment/bin/python", timeout_seconds=60
    )
    with pytest.raises(TeacherError, match="KeyError: 'nothing'"):
        process.ask("nothing")
    process.close()


def test_closing_ends_it_with_all_that_it_started_even_while_it_is_busy(worker: Start) -> None:
    process = worker(GOOD)
    child = process.ask("start")[0]["pid"]
    assert psutil.pid_exists(child)
    process._outbox.put(({"id": 9, "do": "hang"}, {}))
    start = time.monotonic()
    process.close()
    assert time.monotonic() - start < 5
    assert process.process.returncode is not None
    assert _gone(child)


def test_it_says_farewell_when_it_is_idle(worker: Start, tmp_path: Path) -> None:
    said = tmp_path / "said"
    process = worker(
        f"serve({{'add': lambda f, a: ({{}}, {{}})}}, farewell=lambda: open({str(said)!r}, 'w'))"
    )
    process.ask("add")
    process.close()
    assert said.is_file()


def test_one_that_has_ended_is_not_waited_for(worker: Start) -> None:
    process = worker(GOOD)
    child = process.ask("start")[0]["pid"]
    os.kill(process.process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(TeacherError, match="signal 9"):
            process.ask("loud")
    assert _gone(child)


def test_it_goes_when_whoever_asked_is_killed(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(
        f"import sys, time\nsys.path.insert(0, {str(MESSAGES)!r})\n"
        "from worker_messages import serve\n"
        "serve({'hang': lambda fields, arrays: time.sleep(600)})\n"
    )
    asker = os.fork()
    if asker == 0:
        process = WorkerProcess([sys.executable, tmp_path / "worker.py"], timeout_seconds=600)
        (tmp_path / "pid").write_text(str(process.process.pid))
        process.ask("hang")
        os._exit(0)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)  # it is at work now
    os.kill(asker, signal.SIGKILL)
    os.waitpid(asker, 0)
    assert _gone(int((tmp_path / "pid").read_text()))


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False
