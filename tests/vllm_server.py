"""What vLLM's server sends, in its shape, computed by a tiny model in the test's process.

After vllm/entrypoints/openai/chat_completion/protocol.py: log-probabilities are those of the raw
logits over all rows of the head; minus infinity is written as -9999; the sampled token stands first
among its `top_logprobs`, and last in rank if it is not one of the k likeliest; a row of
`prompt_logprobs` holds the k likeliest and the prompt's own token, the first row is null.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from pathlib import Path
from typing import Any

import torch

from chat_server import Body, ChatServer, Sent, completion
from limbeck.data.images import probe_image
from limbeck.models.load import LoadedModel, load_model
from limbeck.recipe.sections import ModelSection
from limbeck.records import ImageFile, Sample

MAX_LOGPROBS = 20


class VllmServer(ChatServer):
    """Serves the model in `folder`; `pictures` is a folder to put what comes into."""

    def __init__(self, folder: Path, pictures: Path, *, max_logprobs: int = MAX_LOGPROBS) -> None:
        self._loaded: LoadedModel = load_model(ModelSection(model=str(folder)), device="cpu")
        self._pictures, self._max = pictures, max_logprobs
        self._one_at_a_time = threading.Lock()
        self.bodies: list[Body] = []
        super().__init__(self._respond)

    def _respond(self, body: Body, headers: dict[str, str]) -> Sent:
        most = max(body.get("top_logprobs") or 0, body.get("prompt_logprobs") or 0)
        if most > self._max:
            message = f"Requested sample logprobs of {most}, which is greater than max allowed: 20"
            return Sent({"error": {"message": message, "code": 400}}, status=400)
        with self._one_at_a_time, torch.no_grad():
            self.bodies.append(body)
            if body.get("prompt_logprobs") is not None:
                return Sent(self._along_prompt(body))
            return Sent(self._written(body))

    def _written(self, body: Body) -> Body:
        encoder = self._loaded.encoder
        prompt = encoder.encode(self._sample(body["messages"]), self._pictures, None)
        (answer,) = self._loaded.generate(
            [prompt],
            max_new_tokens=body["max_tokens"],
            temperature=body["temperature"],
            seed=body.get("seed", 0),
        )
        finish, more = "stop" if answer.finished else "length", {}
        if body.get("logprobs"):
            item = prompt.with_answer(answer.token_ids)
            logp_LR = self._log_probabilities(item.input_ids_L[None], item)
            rows = logp_LR[item.answer_start - 1 : -1]
            pairs = zip(answer.token_ids, rows, strict=True)
            more["logprobs"] = {"content": [self._entry(t, row, body) for t, row in pairs]}
        found = completion(answer.text, finish=finish, prompt=len(prompt.input_ids_L), **more)
        found["usage"]["completion_tokens"] = len(answer.token_ids)
        return found

    def _entry(self, token: int, row: torch.Tensor, body: Body) -> dict[str, Any]:
        k = body["top_logprobs"]
        likeliest = [token, *(i for i in row.topk(k).indices.tolist() if i != token)][:k]
        one = self._one(token, row, body)
        return {**one, "top_logprobs": [self._one(i, row, body) for i in likeliest]}

    def _one(self, token: int, row: torch.Tensor, body: Body) -> dict[str, Any]:
        text = self._loaded.tokenizer.decode([token])
        if body.get("return_tokens_as_token_ids"):
            text = f"token_id:{token}"
        logp = max(row[token].item(), -9999.0)
        return {"token": text, "logprob": logp, "bytes": list(text.encode())}

    def _along_prompt(self, body: Body) -> Body:
        *turns, answer = body["messages"]
        assert answer["role"] == "assistant"
        assert body["add_generation_prompt"] is False
        encoder = self._loaded.encoder
        sample = self._sample(turns)
        parts = [{"type": "text", "text": answer["content"]}]
        text = encoder.processor.apply_chat_template(
            [*sample.messages, {"role": "assistant", "content": parts}], tokenize=False
        )
        images = [encoder._picture(sample, self._pictures, n) for n in range(len(sample.images))]
        inputs = dict(encoder._process(text, images, sample))
        item = encoder.encode(sample, self._pictures, None)
        ids = inputs["input_ids"]
        logp_LR = self._log_probabilities(ids, item, types=inputs["mm_token_type_ids"])
        rows: list[dict[str, Any] | None] = [None]
        k = body["prompt_logprobs"]
        for token, row in zip(ids[0, 1:].tolist(), logp_LR[:-1], strict=True):
            likeliest = dict.fromkeys([token, *row.topk(k).indices.tolist()])
            ranks = (row[:, None] < row[list(likeliest)]).sum(0) + 1
            rows.append(
                {
                    str(i): {
                        "logprob": max(row[i].item(), -9999.0),
                        "rank": int(rank),
                        "decoded_token": self._loaded.tokenizer.decode([i]),
                    }
                    for i, rank in zip(likeliest, ranks, strict=True)
                }
            )
        found = completion("x", finish="length", prompt=ids.shape[1])
        return {**found, "prompt_logprobs": rows, "prompt_token_ids": ids[0].tolist()}

    def _log_probabilities(
        self, ids: torch.Tensor, item: Any, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": item.aligned["mm_token_type_ids"][None],
            **item.features,
        }
        if types is not None:
            inputs["mm_token_type_ids"] = types
        return self._loaded.head(self._loaded.hidden_states(inputs)[0]).float().log_softmax(-1)

    def _sample(self, messages: list[dict[str, Any]]) -> Sample:
        """What the client sent, as our own encoder takes it."""
        turns, images = [], []
        for turn in messages:
            content = turn["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else []
            for part in [] if isinstance(content, str) else content:
                if part["type"] == "text":
                    parts.append(part)
                    continue
                head, _, data = part["image_url"]["url"].partition(",")
                assert head.startswith("data:image/")
                pixels = base64.b64decode(data)
                about = probe_image(pixels, where="request")
                name = hashlib.sha256(pixels).hexdigest() + about.suffix
                (self._pictures / name).write_bytes(pixels)
                images.append(ImageFile(name, name, about.width, about.height))
                parts.append({"type": "image"})
            turns.append({"role": turn["role"], "content": parts})
        return Sample("request", "served", tuple(turns), tuple(images))
