"""The process in which vLLM runs: `python vllm_worker.py`.

It needs numpy, Pillow and vllm, and nothing of Limbeck but the file beside it, which describes how
it is spoken to. It does these things:

    load       engine (arguments of vllm.LLM), adapter (a folder or null)   -> version, device, ...
    answer     requests: for each prompt (token ids, a placeholder for      -> answers: for each
               every picture), pictures, sampling (of vllm.SamplingParams);    tokens, finished;
               arrays picture-r-n [height, width, 3]                           arrays as below
    score      requests: for each prompt with the answer, answer_tokens,    -> the same, tokens
               pictures, log_probabilities; arrays as above                    are the prompt's

Log-probabilities of request r are the arrays ids-r [N, M] and logp-r [N, M]: N the answer's tokens,
M the most that any of them is told of; what is missing of a row has the id -1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from worker_messages import Arrays, serve

Reply = tuple[dict[str, Any], Arrays]


class Engine:
    """vLLM's offline engine."""

    def load(self, fields: Mapping[str, Any], _: Arrays) -> Reply:
        """Start the engine, once."""
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import vllm
        from vllm.lora.request import LoRARequest

        adapter = fields["adapter"]
        options = {"enable_lora": True, **fields["lora"]} if adapter else {}
        self.engine = vllm.LLM(**fields["engine"], **options)
        self.adapter = LoRARequest("adapter", 1, adapter) if adapter else None
        config = self.engine.llm_engine.model_config
        return {"version": vllm.__version__, "dtype": str(config.dtype).removeprefix("torch.")}, {}

    def close(self) -> None:
        """End the engine's processes in order: killed, they leave shared memory behind."""
        engine = getattr(self, "engine", None)
        core = getattr(engine and engine.llm_engine, "engine_core", None)
        if core is not None:
            core.shutdown()

    def answer(self, fields: Mapping[str, Any], arrays: Arrays) -> Reply:
        """Answers to all requests, scheduled by the engine."""
        outputs = self._run(fields["requests"], arrays, [r["sampling"] for r in fields["requests"]])
        said: list[dict[str, Any]] = []
        found: dict[str, Any] = {}
        for number, output in enumerate(outputs):
            (only,) = output.outputs
            said.append({"tokens": list(only.token_ids), "finished": only.finish_reason == "stop"})
            if only.logprobs is not None:
                found |= _told(number, list(only.logprobs))
        return {"answers": said}, found

    def score(self, fields: Mapping[str, Any], arrays: Arrays) -> Reply:
        """Log-probabilities along answers that the prompts end with."""
        requests = fields["requests"]
        # The engine always writes a token; it is not looked at.
        sampling = [
            {"temperature": 0, "max_tokens": 1, "prompt_logprobs": request["log_probabilities"]}
            for request in requests
        ]
        said: list[dict[str, Any]] = []
        found: dict[str, Any] = {}
        for number, (request, output) in enumerate(
            zip(requests, self._run(requests, arrays, sampling), strict=True)
        ):
            tokens = request["answer_tokens"]
            said.append({"tokens": list(output.prompt_token_ids), "finished": True})
            if tokens:
                found |= _told(number, list(output.prompt_logprobs)[-tokens:])
        return {"answers": said}, found

    def _run(
        self, requests: Sequence[Mapping[str, Any]], arrays: Arrays, sampling: Sequence[Any]
    ) -> Sequence[Any]:
        from PIL import Image
        from vllm import SamplingParams

        prompts: list[dict[str, Any]] = []
        for number, request in enumerate(requests):
            prompt: dict[str, Any] = {"prompt_token_ids": list(request["prompt"])}
            names = [f"picture-{number}-{n}" for n in range(request["pictures"])]
            if names:
                pictures = [Image.fromarray(arrays[name]) for name in names]
                prompt["multi_modal_data"] = {"image": pictures}
            prompts.append(prompt)
        parameters = [SamplingParams(detokenize=False, **each) for each in sampling]
        return self.engine.generate(prompts, parameters, use_tqdm=False, lora_request=self.adapter)


def _told(number: int, rows: Sequence[Mapping[int, Any]]) -> dict[str, Any]:
    widest = max(map(len, rows), default=0)
    ids = np.full((len(rows), widest), -1, dtype=np.int32)
    logp = np.full((len(rows), widest), -np.inf, dtype=np.float32)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = list(row)
        logp[n, : len(row)] = [entry.logprob for entry in row.values()]
    return {f"ids-{number}": ids, f"logp-{number}": logp}


if __name__ == "__main__":
    one = Engine()
    serve(
        {"load": one.load, "answer": one.answer, "score": one.score},
        farewell=one.close,
    )
