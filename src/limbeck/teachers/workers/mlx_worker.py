"""The process in which mlx-vlm runs: `python mlx_worker.py`.

It needs numpy, mlx and mlx_vlm, and nothing of Limbeck but the file beside it, which describes how
it is spoken to. It does these things:

    load       folder                                          -> bytes, dtype, device
    generate   max_new_tokens, temperature, seed, end_ids;     -> tokens [N]
               input_ids [1, L] and pixel tensors
    score      answer_tokens N; input_ids with the answer      -> logits [N, R]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from worker_messages import Arrays, serve

Reply = tuple[dict[str, Any], Arrays]


class Model:
    """A model of mlx-vlm that answers and scores one sample at a time."""

    def load(self, fields: Mapping[str, Any], _: Arrays) -> Reply:
        """Load the model of a folder, once."""
        import mlx.core as mx
        from mlx.utils import tree_flatten
        from mlx_vlm.utils import load_model

        self.model = load_model(Path(fields["folder"]))
        self.model.eval()
        parameters = [array for _, array in tree_flatten(self.model.parameters())]
        dtypes = {str(array.dtype).removeprefix("mlx.core.") for array in parameters}
        about = {
            "bytes": sum(array.nbytes for array in parameters),
            "dtype": ", ".join(sorted(dtypes)),
            "device": str(mx.default_device()),
        }
        return about, {}

    def generate(self, fields: Mapping[str, Any], arrays: Arrays) -> Reply:
        """The tokens of an answer, with the end token where it came."""
        from mlx_vlm.generate.ar import generate_step

        ids, features = self._inputs(arrays)
        ends, most = set(fields["end_ids"]), int(fields["max_new_tokens"])
        # Everything is said: mlx-vlm would fill gaps from the checkpoint's generation_config.json.
        steps = generate_step(
            ids,
            self.model,
            features.pop("pixel_values", None),
            None,
            max_tokens=most,
            temperature=float(fields["temperature"]),
            top_p=1.0,
            top_k=0,
            seed=int(fields["seed"]),
            **features,
        )
        tokens: list[int] = []
        for token, _ in steps:
            tokens.append(int(token))
            if tokens[-1] in ends or len(tokens) == most:
                break
        steps.close()
        return {}, {"tokens": np.array(tokens, dtype=np.int32)}

    def score(self, fields: Mapping[str, Any], arrays: Arrays) -> Reply:
        """Logits [N, R] that predict the last N tokens, over all rows of the head."""
        import mlx.core as mx
        from mlx_vlm.models.cache import make_prompt_cache

        ids, features = self._inputs(arrays)
        answer_tokens = int(fields["answer_tokens"])
        before_last = ids[:, :-1]
        embedded = self.model.get_input_embeddings(
            before_last, features.get("pixel_values"), mask=None, **_but(features, "pixel_values")
        )
        known = {k: v for k, v in embedded.to_dict().items() if v is not None}
        output = self.model.language_model(
            before_last,
            inputs_embeds=known.pop("inputs_embeds"),
            cache=make_prompt_cache(self.model.language_model),
            logits_to_keep=answer_tokens,
            **{**_but(features, "pixel_values"), **known},
        )
        logits_NR = output.logits[0, -answer_tokens:].astype(mx.float32)
        return {}, {"logits": np.array(logits_NR)}

    @staticmethod
    def _inputs(arrays: Arrays) -> tuple[Any, dict[str, Any]]:
        import mlx.core as mx

        found = {name: mx.array(array) for name, array in arrays.items()}
        return found.pop("input_ids"), found


def _but(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


if __name__ == "__main__":
    one = Model()
    serve({"load": one.load, "generate": one.generate, "score": one.score})
