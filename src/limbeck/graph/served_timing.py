"""The stages that time models behind servers: the recipe's teacher where it asks, and its servers.

They cost requests, and money where a server asks for it, so nothing is timed that is not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import UsageError
from limbeck.graph.core import Graph
from limbeck.stages import Stage
from limbeck.teachers import Teacher
from limbeck.teachers.openai import OpenAI
from limbeck.teachers.specialised import Prompting

TEACHER = "teacher"

Inputs = Mapping[str, Path]


def served_stages(graph: Graph) -> dict[str, Stage]:
    """Name -> benchmark of a served model; `teacher` is the recipe's.

    Raises:
        UsageError: what is to be timed is not behind a server, or not asked so much at once.
    """
    settings = graph.recipe.benchmark
    found: dict[str, Stage] = {}
    if settings.served:
        found[TEACHER] = _stage(graph, TEACHER, _server(graph.teacher, "benchmark.served"))
    for name, server in settings.servers.items():
        where = f"benchmark.servers.{name}"
        if name == TEACHER:
            raise UsageError(
                "this is what the recipe's own teacher is called",
                where=where,
                mend="choose another name, or set benchmark.served to true",
            )
        found[name] = _stage(graph, name, _server(server, where))
    if settings.concurrency is not None and not found:
        raise UsageError(
            "no served model is timed",
            where="benchmark.concurrency",
            mend="set benchmark.served to true or list benchmark.servers, or leave it out",
        )
    return found


def _server(teacher: Any, where: str) -> OpenAI:
    if not isinstance(teacher, OpenAI):
        word = teacher.word if isinstance(teacher, Teacher) else type(teacher).__name__
        raise UsageError(
            f"what a client sees can be timed of backend: openai, not of {word}",
            where=where,
            mend="start a server with the model, and give its address in benchmark.servers",
        )
    return teacher


def _stage(graph: Graph, name: str, server: OpenAI) -> Stage:
    from limbeck.benchmark.machine import machine
    from limbeck.benchmark.served import TIMED_BY, concurrencies

    settings = graph.recipe.benchmark
    sizes = concurrencies(server, settings)
    if sizes[-1] > server.concurrency:
        raise UsageError(
            f"{sizes[-1]} requests at once are more than the {server.concurrency} that {name} gets",
            where="benchmark.concurrency",
            mend="raise the server's own concurrency, or lower this",
        )

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.benchmark.served import benchmark_served

        return benchmark_served(
            server,
            settings,
            inputs["data"],
            output,
            responses=graph.responses,
            job=output.name.removesuffix("-partial"),
            ask=Prompting.of(server, inputs["data"]).ask,
        )

    identity = {
        "server": {**graph.identify(server.identity), **server.prompting_fields()},
        "benchmark": settings.model_dump(mode="json", include=set(TIMED_BY)),
        "concurrency": sizes,
        "client": machine("cpu"),
    }
    reads = {"data": graph.data}
    title = f"{name}, served"
    return graph.add(Stage("benchmark", title, "benchmark", identity, reads, make))
