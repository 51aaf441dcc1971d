"""The process in which lmms-eval runs: `python lmms_eval_worker.py`.

It needs numpy, Pillow and lmms_eval, and nothing of Limbeck but the file beside it. It never runs
a model: lmms-eval says what its tasks ask, Limbeck's models answer, lmms-eval scores the answers.

    load                                                        -> version
    collect    tasks, limit (or null), include (a folder or     -> tasks: for each task version, n
               null), folder: rows.jsonl and pictures go there     (asked), of; rows: how many
    score      tasks, limit, include as before; answers: a file -> results: for each task and metric
               of lines {"task", "doc_id", "text"}                 value, stderr, n, version
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from worker_messages import Arrays, serve

Reply = tuple[dict[str, Any], Arrays]

DEFAULT_NEW_TOKENS = 1024
"""Of a task that does not say; what lmms-eval's own models take."""
BOOTSTRAP = 100_000


class _CollectedError(Exception):
    """Everything that is asked is on disk."""


def load(_: Mapping[str, Any], __: Arrays) -> Reply:
    """Import it, so that a missing package is found at once."""
    import lmms_eval.evaluator  # noqa: F401

    return {"version": _version()}, {}


def collect(fields: Mapping[str, Any], _: Arrays) -> Reply:
    """Write what the tasks ask, as rows with messages, and their pictures."""
    folder = Path(fields["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    described = {name: _described(task) for name, task in _leaves(_tasks(fields))}
    rows: list[dict[str, Any]] = []

    def answer(requests: Sequence[Any], datasets: Mapping[str, Any]) -> list[str]:
        seen: set[str] = set()
        for request in requests:
            row = _row(request, datasets, folder)
            if row["id"] not in seen:  # a request may be repeated
                seen.add(row["id"])
                rows.append(row)
        raise _CollectedError

    with contextlib.suppress(_CollectedError):
        _run(fields, answer)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    for name, about in described.items():
        about["asked"] = sum(row["metadata"]["task"] == name for row in rows)
    return {"version": _version(), "tasks": described, "rows": len(rows)}, {}


def score(fields: Mapping[str, Any], _: Arrays) -> Reply:
    """What lmms-eval makes of the answers."""
    lines = Path(fields["answers"]).read_text(encoding="utf-8").splitlines()
    answers = {(row["task"], row["doc_id"]): row["text"] for row in map(json.loads, lines)}

    def answer(requests: Sequence[Any], _: Mapping[str, Any]) -> list[str]:
        return [answers[request.args[4], str(request.args[3])] for request in requests]

    found = _run(fields, answer)
    return {"version": _version(), "results": list(_results(found))}, {}


def _run(fields: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    """lmms-eval's evaluation with a model that `answer`s all requests at once."""
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate

    class Model(lmms):
        is_simple = False  # asked in messages, with pictures where they belong

        def generate_until(self, requests: Any) -> list[str]:
            return answer(requests, self.task_dict)

        def generate_until_multi_round(self, requests: Any) -> list[str]:
            raise NotImplementedError

        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            raise NotImplementedError

    return simple_evaluate(
        model=Model(),
        tasks=list(fields["tasks"]),
        limit=fields["limit"],
        task_manager=_manager(fields),
        log_samples=False,
        bootstrap_iters=BOOTSTRAP,
        batch_size=1,
        device="cpu",
    )


def _manager(fields: Mapping[str, Any]) -> Any:
    from lmms_eval.tasks import TaskManager

    return TaskManager(include_path=fields["include"])


def _tasks(fields: Mapping[str, Any]) -> Any:
    from lmms_eval.tasks import get_task_dict

    manager = _manager(fields)
    unknown = [name for name in fields["tasks"] if name not in manager.all_tasks]
    if unknown:
        raise LookupError(f"lmms-eval has no task {unknown[0]!r}")
    return get_task_dict(list(fields["tasks"]), manager, "chat")


def _leaves(tasks: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Tasks by name, those of groups among them."""
    for name, task in tasks.items():
        if isinstance(task, dict):
            yield from _leaves(task)
        else:
            task = task[1] if isinstance(task, tuple) else task
            if task is not None:
                yield str(name), task


def _described(task: Any) -> dict[str, Any]:
    kind = str(task.get_config("output_type"))
    if kind != "generate_until":
        raise ValueError(
            f"task {task.get_config('task')} wants {kind}, and only tasks with single answers "
            "(generate_until) can be run"
        )
    greedy = dict(task.get_config("generation_kwargs") or {})
    return {
        "version": str(getattr(task, "VERSION", "")),
        "of": len(task.eval_docs),
        "data": str(task.get_config("dataset_path")),
        "samples_answers": bool(greedy.get("do_sample"))
        or float(greedy.get("temperature") or 0) > 0,
    }


def _row(request: Any, datasets: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    _, messages_of, options, doc_id, task, split = request.args
    pictures: list[str] = []
    messages = [
        {
            "role": turn["role"],
            "content": [_part(part, folder, pictures, task) for part in turn["content"]],
        }
        for turn in messages_of(datasets[task][split][doc_id])
    ]
    until = options.get("until") or []
    return {
        "id": f"{task}/{doc_id}",
        "messages": messages,
        "images": pictures,
        "metadata": {
            "task": task,
            "doc_id": str(doc_id),
            "max_new_tokens": int(options.get("max_new_tokens") or DEFAULT_NEW_TOKENS),
            "until": [until] if isinstance(until, str) else list(until),
        },
    }


def _part(part: Mapping[str, Any], folder: Path, pictures: list[str], task: str) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] != "image":
        raise ValueError(f"task {task} shows {part['type']}, and only pictures can be shown")
    pictures.append(_stored(part["url"], folder))
    return {"type": "image"}


def _stored(picture: Any, folder: Path) -> str:
    """A picture as PNG under its content's hash; what lmms-eval gives is opened already."""
    import io

    from PIL import Image

    if isinstance(picture, (str, os.PathLike)):
        picture = Image.open(picture)
    stream = io.BytesIO()
    picture.convert("RGB").save(stream, "PNG")
    name = f"{hashlib.sha256(stream.getvalue()).hexdigest()[:32]}.png"
    if not (folder / name).is_file():
        (folder / name).write_bytes(stream.getvalue())
    return name


def _results(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each task (and group) and metric; metrics are named `metric,filter`."""
    for task, metrics in found["results"].items():
        upward = found["higher_is_better"].get(task) or {}
        samples = found["n-samples"].get(task) or {}
        for name, value in metrics.items():
            metric, _, kept = name.partition(",")
            if "_stderr" in metric or metric in ("alias", "samples"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue  # a file that a task wrote, or nothing
            stderr = metrics.get(f"{metric}_stderr,{kept}")
            yield {
                "task": task,
                "metric": metric,
                "filter": kept,
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, (int, float)) else None,
                "n": samples.get("effective"),
                "of": samples.get("original"),
                "version": str(found["versions"].get(task)),
                "higher_is_better": upward.get(metric),
            }


def _version() -> str:
    from importlib.metadata import version

    return version("lmms_eval")


if __name__ == "__main__":
    serve({"load": load, "collect": collect, "score": score})
