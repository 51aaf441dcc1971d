"""The process of one model: `python -m limbeck.compare.worker`; nothing else is loaded in it.

It does two things, in messages as `limbeck.teachers.workers.worker_messages` describes them:

    load      recipe (as JSON), names, name           -> seconds, memory_kind, memory_mib
    answer    sample, max_new_tokens                  -> text, tokens, finished, failure, seconds,
                                                         memory_mib (the peak meanwhile)

Memory is that of the process, with Python and the libraries, and None for a model elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limbeck.compare.models import comparison_of
from limbeck.data.samples import read_samples, sample_from
from limbeck.recipe import recipe_from
from limbeck.teachers import Decoding, OpenTeacher
from limbeck.teachers.workers.worker_messages import Arrays, serve

if TYPE_CHECKING:
    from limbeck.benchmark.timing import MemoryGauge

Reply = tuple[dict[str, Any], Arrays]


class Model:
    """One model of a recipe, loaded once."""

    session: OpenTeacher
    memory: MemoryGauge | None = None

    def load(self, fields: Mapping[str, Any], _: Arrays) -> Reply:
        """Load or connect; a model in this process also answers once, so that it is warm."""
        recipe = recipe_from(fields["recipe"])
        found = comparison_of(recipe, fields["names"], verify=False)
        one = next(model for model in found.models if model.name == fields["name"])
        if one.local:
            from limbeck.benchmark.memory import gauge

            self.memory = gauge(one.device)
        started = time.perf_counter()
        self.session = one.answerer.located(one.inputs, "model").open(
            found.data, device=one.device, responses=one.responses, job=f"compare {one.id}"
        )
        seconds = time.perf_counter() - started
        if not one.local:
            return {"seconds": seconds, "memory_kind": None, "memory_mib": None}, {}
        assert self.memory is not None
        first = read_samples(found.data, recipe.evaluate.split, 1)
        self.session.generate(first, Decoding(max_new_tokens=2))
        self.memory.settle()
        memory_mib = self.memory.current_bytes() / 2**20
        return {"seconds": seconds, "memory_kind": self.memory.kind, "memory_mib": memory_mib}, {}

    def answer(self, fields: Mapping[str, Any], _: Arrays) -> Reply:
        """One sample, greedily, its picture opened within the time that is told."""
        sample = sample_from(fields["sample"])
        if self.memory is not None:
            self.memory.reset_peak()
        started = time.perf_counter()
        decoding = Decoding(max_new_tokens=int(fields["max_new_tokens"]))
        answer = self.session.generate([sample], decoding)[0]
        seconds = time.perf_counter() - started
        peak = self.memory.peaks()[0].bytes / 2**20 if self.memory is not None else None
        return {
            "text": answer.text,
            "tokens": answer.tokens,
            "finished": answer.finished,
            "failure": answer.failure,
            "seconds": seconds,
            "memory_mib": peak,
        }, {}


if __name__ == "__main__":
    one = Model()
    serve({"load": one.load, "answer": one.answer})
