"""A small BERT, of the real class, that works as a sentence encoder without having learnt anything.

Its one layer adds nothing and places do not count, so that a text's vector is that of its words in
any order: texts are as similar as they have words in common.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

WORDS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'-/()&<"


@cache
def made_encoder() -> str:
    """The folder of one, made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="limbeck-encoder-"))
    write_encoder(folder, pooling="mean_tokens")
    return str(folder)


def write_encoder(folder: Path, *, pooling: str) -> None:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    pieces = [*WORDS, *(f"##{c}" for c in WORDS)]
    pairs = [prefix + a + b for prefix in ("", "##") for a in WORDS[:26] for b in WORDS[:26]]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *pairs]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    model = BertModel(config)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.normal_()
        model.embeddings.word_embeddings.weight[2:4] = 0  # those that every text has
        model.embeddings.position_embeddings.weight.zero_()
        model.embeddings.token_type_embeddings.weight.zero_()
        for layer in (
            model.encoder.layer[0].attention.output.dense,
            model.encoder.layer[0].output.dense,
        ):
            layer.weight.zero_()
            layer.bias.zero_()
    model.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": False for name in ("mean_tokens", "cls_token", "max_tokens")}
    modes[f"pooling_mode_{pooling}"] = True
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 64, **modes})
    )
