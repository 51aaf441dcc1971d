"""What Limbeck uses of vLLM, with the shapes of vLLM 0.32 and 0.33, answered by transformers.

Checked against the published sources of these two versions: `entrypoints/llm.py` (LLM, generate),
`sampling_params.py`, `outputs.py` (RequestOutput, CompletionOutput), `logprobs.py` (Logprob),
`inputs/llm.py` (TokensPrompt), `lora/request.py`. An argument that is not listed here is an error,
as it is there. The model behind it is real, so its numbers can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from transformers import DynamicCache

__version__ = "0.33.0"


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class SamplingParams:
    temperature: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool = True


class LLM:
    def __init__(
        self,
        model: str,
        *,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        mm_processor_kwargs: dict[str, Any] | None = None,
        max_model_len: int | None = None,
        max_logprobs: int = 20,
        limit_mm_per_prompt: dict[str, int] | None = None,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        assert dtype == "float32", "as stored"
        self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
        self.inner = self.model.model
        self.processor = AutoProcessor.from_pretrained(model)
        if mm_processor_kwargs:
            own = self.processor.image_processor
            own.size = type(own.size)(**mm_processor_kwargs["size"])
        self.vocabulary = self.model.config.get_text_config().vocab_size
        self.max_logprobs = self.vocabulary if max_logprobs == -1 else max_logprobs
        self.max_lora_rank = max_lora_rank if enable_lora else None
        self.adapted = False
        self.limit = limit_mm_per_prompt or {}
        config = SimpleNamespace(dtype=torch.float32)
        self.llm_engine = SimpleNamespace(model_config=config)

    def generate(
        self,
        prompts: list[dict[str, Any]],
        sampling_params: list[SamplingParams],
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
    ) -> list[RequestOutput]:
        assert len(prompts) == len(sampling_params)
        if lora_request is not None and not self.adapted:
            from peft import PeftModel

            assert self.max_lora_rank is not None, "the engine was built without adapters"
            self.model = PeftModel.from_pretrained(self.model, lora_request.lora_path)
            assert self.model.peft_config["default"].r <= self.max_lora_rank
            self.adapted = True
        pairs = enumerate(zip(prompts, sampling_params, strict=True))
        with torch.no_grad():
            return [self._one(str(n), prompt, how) for n, (prompt, how) in pairs]

    def _one(self, number: str, prompt: dict[str, Any], how: SamplingParams) -> RequestOutput:
        images = prompt.get("multi_modal_data", {}).get("image", [])
        if len(images) > self.limit.get("image", 999):
            raise ValueError(f"At most {self.limit['image']} image(s) may be provided")
        for asked in (how.logprobs, how.prompt_logprobs):
            if asked is not None and asked > self.max_logprobs:
                raise ValueError(f"Requested logprobs of {asked}, more than {self.max_logprobs}")
        ids, features = self._expanded(prompt["prompt_token_ids"], images)
        self.inner.rope_deltas = None  # of the prompt before
        prompt_logprobs = None
        if how.prompt_logprobs is not None:
            logp = self._logp(ids, features)
            told = [_told(logp[n], ids[n + 1], how.prompt_logprobs) for n in range(len(ids) - 1)]
            prompt_logprobs = [None, *told]
        ends = {*(how.stop_token_ids or ()), self.model.generation_config.eos_token_id}
        generator = None if how.seed is None else torch.Generator().manual_seed(how.seed)
        tokens: list[int] = []
        logprobs: list[dict[int, Logprob]] = []
        past = DynamicCache()
        while len(tokens) < (how.max_tokens or 16) and not (tokens and tokens[-1] in ends):
            if not tokens:
                row = self._logp(ids, features, past)[-1]
            else:  # a placeholder that the model writes is a token like others
                row = self._logp(tokens[-1:], {}, past)[-1]
            if how.temperature == 0:
                token = int(row.argmax())
            else:
                p = (row / how.temperature).softmax(-1)
                token = int(torch.multinomial(p, 1, generator=generator))
            tokens.append(token)
            if how.logprobs is not None:
                logprobs.append(_told(row, token, how.logprobs))
        reason = "stop" if tokens[-1] in ends else "length"
        given = None if how.logprobs is None else logprobs
        output = CompletionOutput(0, "", tokens, None, given, reason)
        return RequestOutput(number, ids, prompt_logprobs, [output])

    def _expanded(self, ids: list[int], images: list[Any]) -> tuple[list[int], dict[str, Any]]:
        if not images:
            return list(ids), {}
        features = self.processor.image_processor(images=images, return_tensors="pt")
        merged = self.processor.image_processor.merge_size**2
        counts = iter((features["image_grid_thw"].prod(-1) // merged).tolist())
        place = self.model.config.image_token_id
        expanded = [t for i in ids for t in ([i] * next(counts) if i == place else [i])]
        return expanded, dict(features)

    def _logp(self, ids: list[int], features: dict[str, Any], past: Any = None) -> torch.Tensor:
        row = torch.tensor([ids])
        types = {"mm_token_type_ids": (row == self.model.config.image_token_id).int()}
        inputs = {"input_ids": row, **features, **(types if features else {})}
        cache = {} if past is None else {"past_key_values": past, "use_cache": True}
        return self.model(**inputs, **cache).logits[0].float().log_softmax(-1)


def _told(logp: torch.Tensor, token: int, k: int) -> dict[int, Logprob]:
    """The chosen token first, then the k likeliest, as vLLM orders them."""
    top = logp.topk(min(k, len(logp)))
    rank = int((logp > logp[token]).sum()) + 1
    told = {token: Logprob(logp[token].item(), rank)}
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return told | {i: Logprob(p, n + 1) for n, (i, p) in enumerate(pairs)}
