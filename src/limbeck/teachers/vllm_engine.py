"""How vLLM's engine is started: its arguments, its adapter, the cards that it sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.errors import TeacherError, UsageError
from limbeck.store import file_sha256

if TYPE_CHECKING:
    from limbeck.models.encoder import ModelPrompts
    from limbeck.teachers.vllm import Vllm

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells a rank; the engine of one rank is a world of its own."""

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""That vLLM can be built for."""


def engine_arguments(section: Vllm, prompts: ModelPrompts) -> dict[str, Any]:
    """Of `vllm.LLM`."""
    encoder = prompts.encoder
    options: dict[str, Any] = {
        "model": str(prompts.folder.resolve()),
        # vLLM's own auto would turn float32 into bfloat16.
        "dtype": (prompts.dtype or "auto") if section.dtype == "auto" else section.dtype,
        "tensor_parallel_size": section.tensor_parallel_size,
        "gpu_memory_utilization": section.gpu_memory_utilization,
        "max_model_len": section.context_tokens,
        "max_logprobs": -1,  # as many as are asked for
        "seed": 0,
    }
    if section.quantization is not None:
        options["quantization"] = section.quantization
    if section.images_per_prompt is not None:
        options["limit_mm_per_prompt"] = {"image": section.images_per_prompt}
    if encoder.resizes_itself and (section.min_pixels or section.max_pixels):
        size = encoder.processor.image_processor.size
        edges = {name: size[name] for name in ("shortest_edge", "longest_edge")}
        options["mm_processor_kwargs"] = {"size": edges}
    return options


def adapter_arguments(section: Vllm) -> dict[str, Any]:
    """The adapter's folder, and what `vllm.LLM` has to know of it.

    Raises:
        UsageError: no adapter that vLLM can apply.
    """
    if section.adapter_path is None:
        return {"adapter": None}
    folder = Path(section.adapter_path).expanduser().resolve()
    adapter_identity(folder)  # is one
    rank = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    fitting = next((size for size in LORA_RANKS if size >= rank), None)
    if fitting is None:
        raise UsageError(f"the adapter's rank is {rank}", where=str(folder))
    return {"adapter": str(folder), "lora": {"max_lora_rank": fitting}}


def adapter_identity(folder: Path) -> dict[str, str]:
    """What identifies an adapter: the content of its files.

    Raises:
        UsageError: no adapter of peft, or a pickled one.
    """
    files = [folder / name for name in ("adapter_config.json", "adapter_model.safetensors")]
    if missing := [path.name for path in files if not path.is_file()]:
        raise UsageError(
            f"is no folder of an adapter in safetensors, {missing[0]} is missing",
            where=str(folder),
        )
    return {path.name: file_sha256(path) for path in files}


def environment_of_rank(environment: Mapping[str, str], cards: int) -> dict[str, str]:
    """The environment of an engine: it sees this rank's own cards only, and no launcher.

    Raises:
        TeacherError: fewer cards are visible than the ranks of this machine need.
    """
    found = {name: value for name, value in environment.items() if name not in LAUNCHER}
    rank = environment.get("LOCAL_RANK")
    if rank is None:
        return found
    first, last = int(rank) * cards, (int(rank) + 1) * cards
    own = [str(card) for card in range(first, last)]
    if visible := environment.get("CUDA_VISIBLE_DEVICES"):
        own = visible.split(",")[first:last]
        if len(own) < cards:
            raise TeacherError(
                f"local rank {rank} needs cards {first} to {last - 1} of {visible!r}",
                where="teacher.tensor_parallel_size",
                mend="start one rank for every tensor_parallel_size cards",
            )
    return {**found, "CUDA_VISIBLE_DEVICES": ",".join(own)}
