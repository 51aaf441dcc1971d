"""Spans of text between two tokenizers, against a brute-force search over all prefixes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from limbeck.data.spans import Cut, _byte_alphabet, common_spans, cut_answer
from limbeck.errors import UsageError
from limbeck.models.tokenizer import chat_template, train_tokenizer

CHARACTERS = [
    *"  ethe anindog,.!7",
    *"éßǅ東京画面Жяनि",
    "e\u0301",
    "n\u0303",
    "\u200d",
    "👩\u200d👩\u200d👧",
    "🇮🇹",
    "😀",
    "\n",
    "½",
]
CORPUS = ["the dog and the inn, the end.", "then and there: 東京の画面 😀 déjà vu", "the 7 dogs!"]
END = [0]


def random_texts(count: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(CHARACTERS, k=draw.randint(0, 14))) for _ in range(count)]


def wrapped(inner: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=inner, **options)


def bpe(vocabulary: int, corpus: list[str], *, trim: bool = False) -> PreTrainedTokenizerFast:
    from tokenizers import processors

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if trim:  # as GPT-2 has it: offsets without the space before a word
        inner.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(corpus, trainer)
    return wrapped(inner)


def words(corpus: list[str], vocabulary: int = 100_000) -> Any:
    return train_tokenizer(corpus, "word", vocabulary, template=chat_template("<|image_pad|>"))


def pieces(tokenizer: Any, text: str) -> list[bytes]:
    """The bytes of each token, found by another way than the product's: by kind of tokenizer."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    if isinstance(tokenizer.backend_tokenizer.model, models.BPE):
        table = {character: byte for byte, character in bytes_to_unicode().items()}
        return [bytes(table[character] for character in token) for token in tokens]
    found = [token.encode() for token in tokens]
    if found:
        assert found[0].startswith(b" "), "the tokenizer puts a space before every text"
        found[0] = found[0][1:]
    return found


def brute_force(one: list[bytes], other: list[bytes]) -> tuple[list[list[int]], list[list[int]]]:
    """Groups of token numbers: grow the shorter side until both hold the same bytes."""
    ones: list[list[int]] = []
    others: list[list[int]] = []
    i = j = 0
    while i < len(one) or j < len(other):
        for a, b in ((a, b) for a in range(i, len(one) + 1) for b in range(j, len(other) + 1)):
            left, right = b"".join(one[i:a]), b"".join(other[j:b])
            if left and left == right:
                # Tokens without bytes go with what comes after them, as in the product.
                ones.append(list(range(i, a)))
                others.append(list(range(j, b)))
                i, j = a, b
                break
        else:
            raise AssertionError("the texts differ")
    return ones, others


def groups(spans: list[int], count: int) -> list[list[int]]:
    return [[i for i, span in enumerate(spans) if span == number] for number in range(count)]


TEXTS = random_texts(2000)


@pytest.mark.parametrize("pair", ["bpe and words", "two bpe", "trimmed bpe", "same"])
def test_spans_are_those_of_a_brute_force_search(pair: str) -> None:
    large, small = bpe(330, CORPUS), bpe(262, CORPUS[:1])
    one, other = {
        "bpe and words": (large, words([*CORPUS, *TEXTS])),
        "two bpe": (large, small),
        "trimmed bpe": (bpe(330, CORPUS, trim=True), small),
        "same": (large, large),
    }[pair]
    merged = alone = 0
    for text in TEXTS:
        cuts = [cut_answer(t, text, end_ids=END) for t in (one, other)]
        first, second, count = common_spans(*cuts)
        expected = brute_force(pieces(one, text), pieces(other, text))
        for spans, cut, found in zip((first, second), cuts, expected, strict=True):
            assert len(spans) == len(cut.ids)
            assert groups(spans, count) == [*found, [len(cut.ids) - 1]], text
        sizes = [len(group) for side in expected for group in side]
        merged += sum(size > 1 for size in sizes)
        alone += sum(size == 1 for size in sizes)
    assert alone > 1000
    assert (merged > 1000) == (pair != "same"), "both kinds of span occur"


def test_every_cut_covers_the_text_and_ends_with_the_turn() -> None:
    for tokenizer in (bpe(330, CORPUS), words(CORPUS, 64)):  # the second does not know most words
        for text in TEXTS[:500]:
            cut = cut_answer(tokenizer, text, end_ids=END)
            size = len(text.encode())
            assert list(cut.ends) == sorted(cut.ends)
            assert cut.ends[-1] == size + 1
            assert len(cut.ids) == 1 or cut.ends[-2] == size


def test_unknown_words_keep_their_place_in_the_text() -> None:
    text = "the zebra 😀 and the dog"
    tokenizer = words(CORPUS, 64)
    unknown = tokenizer.unk_token_id
    cut = cut_answer(tokenizer, text, end_ids=END)
    assert unknown in cut.ids
    ends = [text.encode()[:end].decode() for end in cut.ends[:-1]]
    assert ends[:2] == ["the", "the zebra"]
    assert "the zebra 😀" in ends
    first, second, count = common_spans(cut, cut_answer(bpe(330, CORPUS), text, end_ids=END))
    assert count == len(cut.ids) - 1 or count == len(cut.ids)
    assert sorted(set(first)) == sorted(set(second)) == list(range(count))


def test_tokens_inside_one_character_stay_together_where_bytes_are_not_known() -> None:
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()  # e + accent becomes one character: bytes change
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([], trainer)
    text = "ae\u0301😀b"
    cut = cut_answer(wrapped(inner), text, end_ids=END)
    a, accented, emoji, b = 1, 1 + 3, 1 + 3 + 4, len(text.encode())
    assert sorted(set(cut.ends)) == [a, accented, emoji, b, b + 1]
    assert len(cut.ids) == 1 + 2 + 4 + 1 + 1


def test_white_space_of_the_template_belongs_to_no_answer() -> None:
    tokenizer = bpe(330, CORPUS)
    with_prefix = cut_answer(tokenizer, "the dog", prefix="\n ", end_ids=[7, 8])
    without = cut_answer(tokenizer, "the dog", end_ids=END)
    assert with_prefix.ends[-2:] == (8, 8)
    assert {*with_prefix.ends} - {0} >= {*without.ends} - {3}
    _, spans, count = common_spans(with_prefix, without)
    assert spans[-1] == count - 1
    assert common_spans(with_prefix, without)[0][-2:] == [count - 1, count - 1]


def test_white_space_of_two_templates_is_no_span() -> None:
    tokenizer = bpe(262, [])
    cut = cut_answer(tokenizer, "ab", prefix="\n", end_ids=END)
    assert cut.ends == (0, 1, 2, 3)
    assert common_spans(cut, cut) == ([0, 0, 1, 2], [0, 0, 1, 2], 3)


def test_sentence_pieces_are_cut_inside_a_character_too() -> None:
    vocabulary = {"<unk>": 0, "▁the": 1, "▁": 2, "e": 3, "d": 4, "o": 5, "g": 6}
    vocabulary |= {f"<0x{byte:02X}>": 7 + byte for byte in range(256)}
    inner = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    cut = cut_answer(wrapped(inner), "dog 😀", end_ids=END)
    assert cut.ends == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    one, other, count = common_spans(cut, cut_answer(bpe(256, []), "dog 😀", end_ids=END))
    assert one == [0, *range(9)]
    assert other == [*range(9)]
    assert count == 9


def test_byte_level_alphabet_is_the_published_one() -> None:
    assert _byte_alphabet() == {c: byte for byte, c in bytes_to_unicode().items()}


def test_an_empty_answer_is_its_end_of_turn() -> None:
    cut = cut_answer(bpe(330, CORPUS), "", end_ids=[5])
    assert cut == Cut((5,), (1,))
    assert common_spans(cut, cut) == ([0], [0], 1)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        cut_answer(Slow(), "the", end_ids=END)
