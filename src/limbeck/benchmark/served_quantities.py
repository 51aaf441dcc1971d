"""What the replies of one window add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.benchmark.served_load import Load
from limbeck.benchmark.timing import HIGH_PERCENT, median, percentile, quantity, rate
from limbeck.served.server import Server


def measurements_of(
    regime: str, load: Load, preparing: Sequence[float], server: Server
) -> list[dict[str, Any]]:
    """Medians with their spread over requests; throughputs are totals over the window's time.

    Args:
        regime: its name.
        load: what came; at least one reply.
        preparing: seconds that each sample took to become a request.
        server: with its prices.
    """
    replies = load.replies
    latencies_ms = [1000 * reply.total_seconds for reply in replies]
    found = [
        median(regime, "latency_ms", "ms", latencies_ms),
        quantity(
            regime, "latency_p95_ms", percentile(latencies_ms, HIGH_PERCENT), "ms", len(replies)
        ),
        median(regime, "preprocess_ms", "ms", [1000 * seconds for seconds in preparing]),
        quantity(
            regime,
            "throughput_samples_per_second",
            len(replies) / load.seconds,
            "samples/s",
            len(replies),
        ),
    ]
    streamed = [r for r in replies if r.first_token_seconds is not None]
    if streamed:
        first_ms = [1000 * (reply.first_token_seconds or 0.0) for reply in streamed]
        found.append(median(regime, "time_to_first_token_ms", "ms", first_ms))
    gaps_ms = [
        1000 * (reply.total_seconds - (reply.first_token_seconds or 0.0)) / (tokens - 1)
        for reply in streamed
        if (tokens := reply.answer_tokens or 0) > 1
    ]
    if gaps_ms:
        found.append(median(regime, "inter_token_ms", "ms", gaps_ms))
    counts = [reply.answer_tokens for reply in replies if reply.answer_tokens is not None]
    if len(counts) == len(replies):
        tokens = sum(counts)
        per_second = tokens / load.seconds
        name = "throughput_tokens_per_second"
        found.append(quantity(regime, name, per_second, "tokens/s", len(replies)))
        mean = tokens / len(counts)
        found.append(rate(regime, "new_tokens_mean", "tokens/sample", mean, counts))
        if server.price_per_million_prompt_tokens + server.price_per_million_answer_tokens:
            costs = [server.cost(r.prompt_tokens or 0, r.answer_tokens or 0) for r in replies]
            price = 1000 * sum(costs) / len(costs)
            name, unit = "cost_per_thousand_samples", "of the prices' currency"
            found.append(quantity(regime, name, price, unit, len(costs)))
    return found
