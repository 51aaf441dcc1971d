"""Timing a model behind an OpenAI-compatible server: what a client sees, the network included.

The twin of the in-process benchmark: requests under way at once stand where batches stand there.
Its regimes have names of their own (`served/...`), so that a served number is never divided by one
of a model that ran here. Of the server's memory, precision and parameters nothing is known.

    served/natural_length/concurrency_1     what a user waits for
    served/fixed_length/concurrency_<c>     what a token costs, where the server lets a request hold
                                            back the end token; else natural lengths at each c
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from limbeck.benchmark.batches import samples_to_time
from limbeck.benchmark.machine import OtherWork, machine
from limbeck.benchmark.served_load import Load, in_own_loop, keep_busy
from limbeck.benchmark.served_quantities import measurements_of
from limbeck.benchmark.stage import RESULTS
from limbeck.errors import TeacherError
from limbeck.progress import say
from limbeck.recipe.sections import Benchmark
from limbeck.records import Sample
from limbeck.served.account import Account
from limbeck.served.client import Call
from limbeck.served.ledger import Ledger
from limbeck.served.prompts import chat_messages
from limbeck.served.replies import GaveUp, Reply
from limbeck.served.streaming import StreamedReply, StreamingClient
from limbeck.store import fingerprint, write_json
from limbeck.teachers.openai import OpenAI, pictures_of, request_body

USAGE_ASKED = {"stream_options": {"include_usage": True}}


def benchmark_served(
    server: OpenAI,
    settings: Benchmark,
    data: Path,
    output: Path,
    *,
    responses: Path | None,
    job: str,
    seed: int = 0,
    ask: Callable[[Sample], Sample] | None = None,
) -> dict[str, Any]:
    """Time a served model on images of the data set and write `results.json`.

    Args:
        server: what is asked.
        settings: what to measure.
        data: the data stage's folder.
        output: where `results.json` goes; one that is there already is not measured again.
        responses: where what a server has cost is kept; its cap counts earlier runs of `job`.
        job: who asks.
        seed: of the choice of samples; the same as for models that run here.
        ask: how the model is asked where that is not as the data has it.

    Raises:
        DataError: no samples in `settings.split`.
        TeacherError: the server cannot be reached or used, or a cap is reached.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / RESULTS
    if not path.is_file():
        samples = samples_to_time(data, settings, seed, ask)
        key = server.key()
        if key is not None and server.is_plain:
            say(f"  warning: the key and the pictures go to {server.base_url} unencrypted (http)")
        folder = responses / fingerprint(server.identity()) if responses else None
        ledger = Ledger(folder, server.identity())
        account = Account(server, ledger, job, keeps_replies=False)
        run = _Run(server, settings, samples, data, account)
        write_json(path, {**in_own_loop(run.measured(key)), "seed": seed})
    found = json.loads(path.read_text(encoding="utf-8"))
    chosen = ("latency_ms", "time_to_first_token_ms", "throughput_samples_per_second")
    values = {
        f"{one['regime']}/{one['name']}": one["value"]
        for one in found["measurements"]
        if one["name"] in chosen
    }
    return {"samples": found["samples"], "usage": found["served"]["usage"], "measurements": values}


def concurrencies(server: OpenAI, settings: Benchmark) -> list[int]:
    """How many requests are under way at once, the few first."""
    return sorted(set(settings.concurrency or (1, server.concurrency)))


class _Run:
    """One server's benchmark; `notes` says what a reader has to know of it."""

    def __init__(
        self,
        server: OpenAI,
        settings: Benchmark,
        samples: Sequence[Sample],
        data: Path,
        account: Account,
    ) -> None:
        self._server, self._settings, self._account = server, settings, account
        self._samples, self._pictures = samples, pictures_of(server, data)
        self._messages: list[list[dict[str, Any]]] = []
        self._stream: dict[str, Any] = {"stream": True, **USAGE_ASKED}
        self.notes: list[str] = []

    async def measured(self, key: str | None) -> dict[str, Any]:
        """Everything that `results.json` holds, but for the seed."""
        preparing = []
        for sample in self._samples:
            began = time.perf_counter()
            self._messages.append(chat_messages(sample.messages, self._pictures.urls(sample)))
            preparing.append(time.perf_counter() - began)
        settings, sizes = self._settings, concurrencies(self._server, self._settings)
        client = StreamingClient(self._server, self._account, key)
        other, found = OtherWork(), []
        try:
            await self._first_contact(client)
            natural = await self._window(client, "natural_length", 1, settings.max_new_tokens, {})
            found += measurements_of(*natural, preparing, self._server)
            fixed = await self._fixed_length(client, natural[1])
            for size in sizes:
                if fixed is None and size == 1:
                    continue  # that was measured
                length, count = "natural_length", settings.max_new_tokens
                if fixed is not None:
                    length, count = "fixed_length", settings.new_tokens
                window = await self._window(client, length, size, count, fixed or {})
                found += measurements_of(*window, preparing, self._server)
        finally:
            await client.close()
        return self._results(natural[1], found, other.cores())

    async def _first_contact(self, client: StreamingClient) -> None:
        """Find out whether the server counts tokens of streams when asked to; not all may be."""
        limit = self._settings.new_tokens
        try:
            reply = await self._once(client, self._call(0, limit, {}))
        except GaveUp as error:
            if error.trouble != "request":
                raise self._unusable(error.reason) from error
            self._stream = {"stream": True}
            try:
                reply = await self._once(client, self._call(0, limit, {}))
            except GaveUp as again:
                raise self._unusable(again.reason) from again
        if reply.failure is not None:
            raise self._unusable(reply.failure)
        if reply.answer_tokens is None:
            self.notes.append("the server does not count tokens: no rates of tokens")
        if isinstance(reply, StreamedReply) and reply.first_token_seconds is None:
            self.notes.append(
                "the first answer did not come piece by piece: where no answer does, there is no "
                "time to first token"
            )

    async def _fixed_length(self, client: StreamingClient, natural: Load) -> dict[str, Any] | None:
        """What a request says so that its answer has exactly so many tokens; None if nothing does.

        It is tried on the sample whose own answer was shortest.
        """
        count = self._settings.new_tokens
        lengths = [reply.answer_tokens for reply in natural.replies]
        if None in lengths:
            return None
        place = min(range(len(lengths)), key=lambda n: lengths[n] or 0) % len(self._samples)
        for fields in _ways(self._server, count):
            try:
                reply = await self._once(client, self._call(place, count, fields))
            except GaveUp as error:
                if error.trouble != "request":
                    raise self._unusable(error.reason) from error
                continue
            if reply.answer_tokens == count:
                return fields
        self.notes.append(
            "the server does not let a request hold back the end token: natural lengths at every "
            "concurrency, none of a fixed length"
        )
        return None

    async def _once(self, client: StreamingClient, call: Call) -> Reply:
        """One call by itself, if the caps admit it."""
        if not self._account.admits(call.answer_limit):
            raise self._account.cap_error()
        self._account.running += 1
        try:
            return await client.ask(call)
        finally:
            self._account.running -= 1

    async def _window(
        self, client: StreamingClient, length: str, size: int, count: int, fields: dict[str, Any]
    ) -> tuple[str, Load]:
        """One regime: its warm-up, then every sample `repeats` times, in full rounds."""
        settings, regime = self._settings, f"served/{length}/concurrency_{size}"
        wanted = settings.repeats * len(self._samples)
        wanted = -(-wanted // size) * size
        warm = max(settings.warmup, size if settings.warmup else 0)
        say(f"  {regime}: {warm} + {wanted} requests")
        calls = [self._call(n % len(self._samples), count, fields) for n in range(warm + wanted)]
        await keep_busy(client, self._account, calls[:warm], size)
        load = await keep_busy(client, self._account, calls[warm:], size)
        if not load.replies:
            raise self._unusable(load.failures[-1])
        if load.failures:
            failed = len(load.failures)
            self.notes.append(f"{regime}: {failed} of {wanted} requests had no answer, not timed")
        short = sum(reply.answer_tokens != count for reply in load.replies) if fields else 0
        if short:
            self.notes.append(f"{regime}: {short} answers did not have {count} tokens")
        return regime, load

    def _call(self, place: int, limit: int, fields: dict[str, Any]) -> Call:
        asked = {
            self._server.max_tokens_field: limit,
            "temperature": 0.0,
            **self._stream,
            **fields,
        }
        if self._server.server == "vllm":
            asked["cache_salt"] = uuid.uuid4().hex  # no prefix that an earlier request has left
        body = request_body(self._server, self._messages[place], asked)
        return Call(uuid.uuid4().hex, lambda: body, limit, self._samples[place].id)

    def _results(
        self, natural: Load, measurements: list[dict[str, Any]], other_cores: float
    ) -> dict[str, Any]:
        server, usage = self._server, self._account.facts()
        if usage["retries"]:
            self.notes.append(
                f"{usage['retries']:.0f} requests had to be repeated: times are of those that "
                "succeeded, throughput includes the waiting"
            )
        if server.requests_per_minute:
            self.notes.append(
                f"requests were held to {server.requests_per_minute:g} a minute, which bounds "
                "throughput"
            )
        self.notes.append(
            "vLLM: every request has a salt, so that no prefix is used again; pictures that it has "
            "processed may be"
            if server.server == "vllm"
            else "a server that keeps what it has computed answers repeated samples faster; "
            "benchmark.repeats: 1 with more samples shows it without"
        )
        prompts = [r.prompt_tokens for r in natural.replies if r.prompt_tokens is not None]
        says = {key: value for reply in natural.replies for key, value in reply.served_as if value}
        return {
            "measurements": measurements,
            "served": {
                "address": server.base_url,
                "model": server.model,
                "kind": server.server,
                "says": says,
                "network": "included, on this machine" if server.is_here else "included",
                "usage": usage,
                "notes": self.notes,
            },
            "client": machine("cpu"),
            "other_busy_cores": round(other_cores, 2),
            "parameters": None,
            "disk_bytes": None,
            "precision": None,
            "runtime": f"served as {server.model} at {server.base_url}",
            "memory_kind": None,
            "samples": len(self._samples),
            "prompt_tokens_mean": sum(prompts) / len(prompts) if prompts else None,
            "settings": {
                **self._settings.model_dump(mode="json", include=set(TIMED_BY)),
                "concurrency": concurrencies(server, self._settings),
            },
        }

    def _unusable(self, reason: str) -> TeacherError:
        return TeacherError(
            f"the served model cannot be timed ({reason})",
            where=self._server.base_url,
            mend="check its address, model and extra_body, and the server's log",
        )


TIMED_BY = ("split", "new_tokens", "max_new_tokens", "samples", "repeats", "warmup")
"""The settings that a served model is timed by, beside the concurrency."""


def _ways(server: OpenAI, count: int) -> list[dict[str, Any]]:
    """How servers are asked for exactly so many tokens: vLLM's fields, `transformers serve`'s."""
    vllm: dict[str, Any] = {"ignore_eos": True, "min_tokens": count}
    serve = {"generation_config": json.dumps({"min_new_tokens": count})}
    return [vllm] if server.server == "vllm" else [vllm, serve]
