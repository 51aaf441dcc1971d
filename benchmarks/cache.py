"""What does a cache of teacher signals cost, in bytes, in nats, and in time?

    python benchmarks/cache.py [--samples 24] [--answer-tokens 64] [--rounds 5]

Synthetic teacher at Qwen2-VL's size: V = 151,665 tokens, hidden states of width 1,536 and of equal
norm, as after a last normalisation, on a random head. Tokens have a Zipf-like bias; each position
leans towards twelve tokens, by a random amount, so that positions run from certain to undecided as
in a language model: the entropies are printed. A sample is `--answer-tokens` positions. Compared on
the same logits, k = 64, T = 1 and 2 stored:

    fp16 logits      the whole row; nothing is lost
    int32 + fp16     ids and log-probabilities of 64 tokens and two float32 log-sums, raw in a file
    parquet          the same 64 tokens as DistillKit lays them out: a row a sample, list columns of
                     bit-packed ids and of the bytes of 16-bit log-probabilities, read back by row
                     through `datasets` into torch and unpacked (also: straight through pyarrow)
    top_k            limbeck's cache: SignalWriter to disk, SignalReader to tensors
    hidden           limbeck's cache of int8 hidden states; decoding includes the head's product

Decoding reads one sample at random, checks included, to the tensors that a loss takes. KL is what
coding adds: between the teacher's 64 tokens with their tail and what is given back of them (T = 1);
for `hidden` over the whole vocabulary. Rounds interleave the formats in one process. Prints a table
and writes work/benchmarks/cache.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

VOCABULARY, WIDTH, K, ID_BITS = 151_665, 1536, 64, 18
TEMPERATURES = (1.0, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("work/benchmarks/cache.json"))
    arguments = parser.parse_args()

    import torch

    head, make_sample = teacher()
    samples = [make_sample(i, arguments.answer_tokens) for i in range(arguments.samples)]
    rows = arguments.samples * arguments.answer_tokens
    entropy = torch.cat([sample["entropy"] for sample in samples])
    tail = torch.cat([sample["top_k"].log_tails_NT[:, 0].exp() for sample in samples])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        formats = [
            fp16_logits(folder, samples[0]),
            raw_arrays(folder, samples),
            *parquet(folder, samples),
            top_k(folder / "top_k", samples),
            hidden(folder / "hidden", samples, head),
        ]
        decode_seconds = interleaved(formats, samples, arguments.rounds)
    reference = decode_seconds["parquet"]
    results = []
    for found in formats:
        name = found["name"]
        ratios = [a / b for a, b in zip(reference, decode_seconds[name], strict=True)]
        results.append(
            {
                "format": name,
                "bytes_per_token": found["bytes"] / found.get("rows", rows),
                "kl_nats": found["kl_nats"],
                "encode_tokens_per_second": found["encode_rate"],
                "decode_tokens_per_second": rows / median(decode_seconds[name]),
                "decode_ms_per_sample": 1e3 * median(decode_seconds[name]) / len(samples),
                "decode_speed_over_parquet": {
                    "median": median(ratios),
                    "low": min(ratios),
                    "high": max(ratios),
                },
            }
        )
    quantiles = entropy.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    result = {
        "vocabulary": VOCABULARY,
        "k": K,
        "temperatures": TEMPERATURES,
        "samples": len(samples),
        "tokens": rows,
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "entropy_nats": {"mean": entropy.mean().item(), "p10_p50_p90": quantiles},
        "tail_mass": tail.mean().item(),
        "formats": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print_table(result)


def teacher() -> tuple[Any, Callable[[int, int], dict[str, Any]]]:
    """A random head, and what makes the i-th sample: hidden states, logits reduced to signals."""
    import torch

    from limbeck.signals.top_k import from_logits

    generator = torch.Generator().manual_seed(0)
    head = torch.randn(VOCABULARY, WIDTH, generator=generator) / WIDTH**0.5
    # The last channel is 1 in every hidden state and carries the bias of the words.
    ranks = torch.randperm(VOCABULARY, generator=generator) + 1
    head[:, -1] = -0.5 * ranks.log()
    head = head.half().float()

    def make_sample(index: int, tokens: int) -> dict[str, Any]:
        own = torch.Generator().manual_seed(index + 1)
        leaning = 18 + 4 * torch.randn(tokens, 1, 1, generator=own)
        likely = torch.randint(VOCABULARY, (tokens, 12), generator=own)
        bumps = (leaning - 0.8 * torch.arange(12)[:, None]).clamp(min=0)
        hidden_NH = 2 * torch.randn(tokens, WIDTH, generator=own) + (head[likely] * bumps).sum(1)
        hidden_NH[:, -1] = 0
        hidden_NH *= 2 * (WIDTH**0.5) / hidden_NH.norm(dim=-1, keepdim=True)
        hidden_NH[:, -1] = 1
        logits_NV = hidden_NH @ head.T
        log_p = logits_NV.log_softmax(-1)
        sample: dict[str, Any] = {
            "id": f"sample-{index:06d}",
            "hidden": hidden_NH,
            "answer": logits_NV.argmax(-1).tolist(),
            "first_logits": logits_NV[:1].clone(),
            "entropy": -(log_p.exp() * log_p).sum(-1),
        }
        if index == 0:
            sample["logits"] = logits_NV
        started = time.perf_counter()
        sample["top_k"] = from_logits(logits_NV, K, TEMPERATURES)
        sample["reduce_seconds"] = time.perf_counter() - started
        return sample

    return head, make_sample


def sample_key(sample: dict[str, Any]) -> dict[str, str]:
    from limbeck.store import fingerprint

    return {part: fingerprint((part, sample["id"])) for part in ("prompt", "images", "target_text")}


def fp16_logits(folder: Path, sample: dict[str, Any]) -> dict[str, Any]:
    """One sample stands for all: every read is of a whole row."""
    import numpy as np
    import torch

    path, logits = folder / "logits.bin", sample["logits"]
    started = time.perf_counter()
    logits.half().numpy().tofile(path)
    seconds = time.perf_counter() - started
    mapped = np.memmap(path, np.float16, mode="r").reshape(logits.shape)
    log_p, log_q = logits.log_softmax(-1), logits.half().float().log_softmax(-1)
    return {
        "name": "fp16 logits",
        "bytes": path.stat().st_size,
        "rows": len(logits),
        "kl_nats": max(0.0, (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()),
        "encode_rate": len(logits) / seconds,
        "read": lambda _: torch.from_numpy(mapped.astype(np.float32)),
    }


def raw_arrays(folder: Path, samples: list[dict[str, Any]]) -> dict[str, Any]:
    import numpy as np
    import torch

    started = time.perf_counter()
    ids, logp, sums = (
        np.stack([getattr(s["top_k"], name).numpy().astype(dtype) for s in samples])
        for name, dtype in (("ids_NK", "i4"), ("logp_NK", "f2"), ("log_sums_NT", "f4"))
    )
    for name, array in (("ids", ids), ("logp", logp), ("sums", sums)):
        np.save(folder / f"raw-{name}.npy", array)
    seconds = time.perf_counter() - started
    maps = [np.load(folder / f"raw-{name}.npy", mmap_mode="r") for name in ("ids", "logp", "sums")]

    def read(at: int) -> list[Any]:
        kinds = (np.int64, np.float32, np.float32)
        return [torch.from_numpy(m[at].astype(kind)) for m, kind in zip(maps, kinds, strict=True)]

    return {
        "name": "int32 + fp16",
        "bytes": ids.nbytes + logp.nbytes + sums.nbytes,
        "kl_nats": kept_kl(samples, [torch.from_numpy(row.astype(np.float32)) for row in logp]),
        "encode_rate": ids.shape[0] * ids.shape[1] / seconds,
        "read": read,
    }


def parquet(folder: Path, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Written once; read back in the two ways that the module's head names."""
    import datasets
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    datasets.disable_progress_bars()
    lists = pa.list_(pa.list_(pa.uint8()))
    schema = pa.schema(
        [
            ("input_ids", pa.list_(pa.uint64())),
            ("compressed_logprobs", lists),
            ("bytepacked_indices", lists),
        ]
    )
    started = time.perf_counter()
    rows = []
    for sample in samples:
        signal = sample["top_k"]
        bits = (signal.ids_NK.numpy()[:, :, None] >> np.arange(ID_BITS)) & 1
        packed = np.packbits(bits.reshape(len(bits), -1).astype(np.uint8), axis=1)
        values = signal.logp_NK.half().numpy().view(np.uint8).reshape(len(bits), -1)
        rows.append(
            {
                "input_ids": sample["answer"],
                "compressed_logprobs": values.tolist(),
                "bytepacked_indices": packed.tolist(),
            }
        )
    path = folder / "data_0.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    rate = len(samples) * len(samples[0]["answer"]) / (time.perf_counter() - started)
    loaded = datasets.Dataset.from_parquet(str(path), cache_dir=str(folder / "arrow"))
    table = pq.read_table(path).combine_chunks()
    weights = 1 << torch.arange(ID_BITS)

    def unpack(packed: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bits = (packed[:, :, None] >> torch.arange(7, -1, -1)) & 1
        ids = (bits.reshape(len(packed), K, ID_BITS).long() * weights).sum(-1)
        return ids, values.contiguous().view(torch.float16).float()

    def by_row(at: int) -> Any:
        row = loaded[at]
        columns = (row["bytepacked_indices"], row["compressed_logprobs"])
        return unpack(*(torch.tensor(column, dtype=torch.uint8) for column in columns))

    def by_arrow(at: int) -> Any:
        found = []
        for name in ("bytepacked_indices", "compressed_logprobs"):
            flat = table.column(name).chunk(0)[at].values.flatten().to_numpy()
            found.append(torch.tensor(flat).reshape(len(samples[at]["answer"]), -1))
        return unpack(*found)

    assert all(
        torch.equal(read(1)[0], samples[1]["top_k"].ids_NK) for read in (by_row, by_arrow)
    ), "the reference gives back what it was given"
    kl = kept_kl(samples, [by_arrow(at)[1] for at in range(len(samples))])
    shared = {"bytes": path.stat().st_size, "kl_nats": kl, "encode_rate": rate}
    return [
        {"name": "parquet", "read": by_row, **shared},
        {"name": "parquet, pyarrow", "read": by_arrow, **shared},
    ]


def top_k(folder: Path, samples: list[dict[str, Any]]) -> dict[str, Any]:
    from limbeck.signals.reader import SignalReader
    from limbeck.signals.top_k_coding import TopKCoding
    from limbeck.signals.writer import SignalWriter

    started = time.perf_counter()
    writer = SignalWriter(folder, {"teacher": "synthetic"}, TopKCoding(K, TEMPERATURES))
    for sample in samples:
        writer.append(sample["id"], sample["answer"], sample["top_k"], sample_key(sample))
    summary = writer.close()
    rate = summary["tokens"] / (time.perf_counter() - started)
    reader = SignalReader(folder, {"teacher": "synthetic"})

    def read(at: int) -> Any:
        return reader.get(samples[at]["id"], samples[at]["answer"])

    found = [read(at) for at in range(len(samples))]
    logp = []
    for sample, given_back in zip(samples, found, strict=True):
        places = sample["top_k"].ids_NK.argsort(-1).argsort(-1)
        assert (given_back.ids_NK.gather(-1, places) == sample["top_k"].ids_NK).all()
        logp.append(given_back.logp_NK.gather(-1, places))
    return {
        "name": "top_k",
        "bytes": summary["bytes"],
        "kl_nats": kept_kl(samples, logp, [signal.log_tails_NT[:, 0] for signal in found]),
        "encode_rate": rate,
        "read": read,
    }


def hidden(folder: Path, samples: list[dict[str, Any]], head: Any) -> dict[str, Any]:
    from limbeck.signals.hidden import HiddenReader
    from limbeck.signals.hidden_coding import HiddenCoding, HiddenStates
    from limbeck.signals.writer import SignalWriter

    started = time.perf_counter()
    writer = SignalWriter(folder, {"teacher": "synthetic"}, HiddenCoding(head))
    for sample in samples:
        signal = HiddenStates(sample["hidden"], sample["first_logits"])
        writer.append(sample["id"], sample["answer"], signal, sample_key(sample))
    summary = writer.close()
    rate = summary["tokens"] / (time.perf_counter() - started)
    reader = HiddenReader(folder, {"teacher": "synthetic"})
    return {
        "name": "hidden",
        "bytes": summary["bytes"],
        "kl_nats": summary["kl_nats"],
        "encode_rate": rate,
        "read": lambda at: reader.signal([samples[at]["id"]], [samples[at]["answer"]]),
        "reads": 2,
    }


def kept_kl(
    samples: list[dict[str, Any]], logp: list[Any], log_tails: list[Any] | None = None
) -> float:
    """Mean KL at T = 1 over the kept tokens and the tail, which is else what they leave over."""
    import torch

    found = []
    for at, (sample, kept) in enumerate(zip(samples, logp, strict=True)):
        log_p, log_q = sample["top_k"].logp_NK.double(), kept.double()
        tail_p = sample["top_k"].log_tails_NT[:, 0].double()
        left = (1 - log_q.exp().sum(-1)).clamp(min=1e-12).log()
        tail_q = left if log_tails is None else log_tails[at].double()
        found.append((log_p.exp() * (log_p - log_q)).sum(-1) + tail_p.exp() * (tail_p - tail_q))
    return torch.cat(found).mean().item()


def interleaved(
    formats: list[dict[str, Any]], samples: list[dict[str, Any]], rounds: int
) -> dict[str, list[float]]:
    """Seconds that each format takes to read every sample once, at random, round by round.

    Of a format that is slow because of a matrix product, only its `reads` are timed.
    """
    seconds: dict[str, list[float]] = {found["name"]: [] for found in formats}
    order = list(range(len(samples)))
    for found in formats:
        found["read"](0)  # first use loads code, and the head
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for found in formats:
            started = time.perf_counter()
            read = order[: found.get("reads")]
            for at in read:
                found["read"](at)
            each = (time.perf_counter() - started) / len(read)
            seconds[found["name"]].append(each * len(order))
    return seconds


def print_table(result: dict[str, Any]) -> None:
    entropy = result["entropy_nats"]
    print(
        f"{result['tokens']:,} tokens, V = {VOCABULARY:,}, k = {K}; entropy {entropy['mean']:.2f} "
        f"nats in the mean (p10 p50 p90: {', '.join(f'{v:.2f}' for v in entropy['p10_p50_p90'])}), "
        f"tail mass {result['tail_mass']:.3f}, {result['threads']} thread"
    )
    print(
        f"{'format':<18}{'B/token':>10}{'KL nats':>11}{'encode/s':>11}{'decode/s':>11}  vs parquet"
    )
    for row in result["formats"]:
        speed = row["decode_speed_over_parquet"]
        print(
            f"{row['format']:<18}{row['bytes_per_token']:>10,.1f}{row['kl_nats']:>11.1e}"
            f"{row['encode_tokens_per_second']:>11,.0f}{row['decode_tokens_per_second']:>11,.0f}"
            f"  {speed['median']:.1f}x ({speed['low']:.1f} to {speed['high']:.1f})"
        )


if __name__ == "__main__":
    main()
