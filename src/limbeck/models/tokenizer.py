"""Tokenizers trained on the user's own texts, with the special tokens and chat form of Qwen2-VL.

`word`: one token a word. A word carries the space before it, so that decoding gives back the exact
text, spaces included; every text is given one space in front, so that a word has the same token at
the start of an answer as within it. Digits and punctuation marks are tokens of their own.
`bpe`: byte-level byte-pair encoding; nothing is unknown to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from limbeck.errors import UsageError

END_OF_TEXT, END_OF_TURN, UNKNOWN = "<|endoftext|>", "<|im_end|>", "<|unknown|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    VISION_START,
    VISION_END,
    IMAGE,
    VIDEO,
    UNKNOWN,
)

_WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]|\s"
_TEMPLATE_TEXTS = ("system\n", "user\n", "assistant\n", "\n")


def chat_template(image: str) -> str:
    """A chat template in ChatML form with `image` in the place of every picture."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def train_tokenizer(
    texts: Sequence[str],
    kind: Literal["word", "bpe"],
    vocabulary: int,
    *,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    end_of_turn: str = END_OF_TURN,
    template: str,
) -> Any:
    """A transformers tokenizer of at most `vocabulary` tokens; the same texts give the same one.

    Raises:
        UsageError: there is no text, or `vocabulary` is below what `bpe` needs for all bytes.
    """
    from transformers import TokenizersBackend

    if not any(text.strip() for text in texts):
        raise UsageError("there is no text to train a tokenizer on", where="build.tokenizer")
    make = _words if kind == "word" else _bytes
    tokenizer, trainer = make(list(special_tokens), vocabulary)
    tokenizer.train_from_iterator([*_TEMPLATE_TEXTS, *texts], trainer)
    return TokenizersBackend(
        tokenizer_object=tokenizer,
        eos_token=end_of_turn,
        pad_token=END_OF_TEXT,
        unk_token=UNKNOWN,
        extra_special_tokens=list(special_tokens),
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def _words(special_tokens: list[str], vocabulary: int) -> tuple[Any, Any]:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer, trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=special_tokens, show_progress=False
    )


def _bytes(special_tokens: list[str], vocabulary: int) -> tuple[Any, Any]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    needed = 256 + len(special_tokens)
    if vocabulary < needed:
        raise UsageError(
            f"a byte-level tokenizer needs at least {needed} tokens",
            where="build.tokenizer_vocabulary",
            mend=f"raise it to {needed} or more, or use tokenizer: word",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
