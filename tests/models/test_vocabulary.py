"""Pairs of tokenizers: aligned or refused, never silently wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from limbeck.errors import UsageError
from limbeck.losses.functional import divergence
from limbeck.models.vocabulary import shared_vocabulary

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("t", "h"), ("th", "e"), ("h", "e"), ("a", "n"), ("an", "d"), ("i", "n"), ("Ġ", "the")]


def bpe(
    merges: list[tuple[str, str]] | None = None,
    order: list[str] | None = None,
    added: tuple[str, ...] = ("<|end|>", "<|image|>"),
) -> PreTrainedTokenizerFast:
    """A real byte-level BPE tokenizer; `order` gives its tokens their ids."""
    merges = MERGES if merges is None else merges
    tokens = order or [*LETTERS, *sorted("".join(pair) for pair in MERGES)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    return tokenizer


def words(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


REAL = len(LETTERS) + len(MERGES) + 2


def test_heads_padded_to_different_sizes_share_exactly_the_real_tokens() -> None:
    shared = shared_vocabulary(bpe(), bpe(), teacher_rows=REAL + 399, student_rows=REAL + 271)
    assert shared.size == REAL == len(bpe())
    assert shared.columns is None
    assert shared.describe() == (
        f"{REAL} shared tokens; teacher has {REAL + 399} rows, student {REAL + 271}; "
        "399 and 271 padding rows dropped"
    )
    logits = torch.randn(2, 3, REAL + 399)
    assert torch.equal(shared.of(logits), logits[..., :REAL])
    labels = torch.tensor([[0, REAL - 1, -100]])
    assert torch.equal(shared.columns_of(labels), labels)


def test_large_numbers_are_printed_readably() -> None:
    described = shared_vocabulary(bpe(), bpe(), 152_064, 151_936).describe()
    assert "teacher has 152,064 rows, student 151,936;" in described


def test_padding_rows_take_no_mass_whatever_is_in_them() -> None:
    shared = shared_vocabulary(bpe(), bpe(), REAL + 7, REAL + 3)
    real = torch.randn(2, REAL)
    teacher = torch.cat([real, torch.full((2, 7), 30.0)], -1)
    student = torch.cat([real, torch.full((2, 3), -5.0)], -1)
    labels = torch.zeros(2, dtype=torch.long)
    assert divergence(shared.of(student), shared.of(teacher), labels) == 0


@pytest.mark.parametrize(
    ("student", "said"),
    [
        # ids in another order
        (bpe(order=[*LETTERS[::-1], *sorted("".join(p) for p in MERGES)]), f"{LETTERS[0]!r} is"),
        # one more added token
        (bpe(added=("<|end|>", "<|image|>", "<tool>")), "'<tool>' is unknown to the teacher and"),
        # one less
        (bpe(added=("<|end|>",)), "'<|image|>' is id 264 for the teacher and unknown to the"),
        # the same id for other added tokens
        (bpe(added=("<|image|>", "<|end|>")), "'<|end|>' is id 263 .* and id 264 .*2 tokens"),
        # another kind of tokenizer
        (words({"<unk>": 0, "the": 1}), "the tokenizers are not the same: token "),
    ],
    ids=["reordered", "one more", "one less", "swapped", "other kind"],
)
def test_tokenizers_that_differ_are_refused_naming_the_first_token(student: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("|", r"\|")) as caught:
        shared_vocabulary(bpe(), student, 1000, 1000)
    assert "student of the teacher's family" in str(caught.value)
    assert "cross_entropy" in str(caught.value)
    assert "use kind: cross_tokenizer" in str(caught.value)


def test_two_swapped_tokens_are_found_among_many() -> None:
    tokens = [*LETTERS, *sorted("".join(pair) for pair in MERGES)]
    swapped = tokens.copy()
    swapped[100], swapped[200] = tokens[200], tokens[100]
    with pytest.raises(UsageError, match="is id 100 for the teacher and id 200 for the student"):
        shared_vocabulary(bpe(), bpe(order=swapped), 1000, 1000)


def test_same_tokens_with_other_merges_are_refused() -> None:
    # Both know th, he and the; the second joins h + e first and then has nothing for t + he.
    other = bpe(merges=[("h", "e"), *(pair for pair in MERGES if pair != ("h", "e"))])
    assert other.get_vocab() == bpe().get_vocab()
    with pytest.raises(UsageError, match="same tokens but split text differently"):
        shared_vocabulary(bpe(), other, 1000, 1000)


def test_ids_with_gaps_are_kept_by_index_on_both_sides() -> None:
    vocabulary = {"<unk>": 0, "the": 1, "fox": 4, "dog": 5, "<image>": 9}
    shared = shared_vocabulary(words(vocabulary), words(vocabulary), 12, 10)
    assert shared.size == 5
    assert shared.columns == (0, 1, 4, 5, 9)
    for rows in (12, 10):
        logits = torch.randn(3, rows)
        assert torch.equal(shared.of(logits), logits[:, [0, 1, 4, 5, 9]])
    labels = torch.tensor([9, -100, 4, 0])
    assert shared.columns_of(labels).tolist() == [4, -100, 2, 0]
    assert "7 and 5 padding rows dropped" in shared.describe()


@pytest.mark.parametrize("token", [2, 10, -1])
def test_label_that_is_no_shared_token_is_refused(token: int) -> None:
    vocabulary = {"<unk>": 0, "the": 1, "fox": 4, "dog": 5, "<image>": 9}
    shared = shared_vocabulary(words(vocabulary), words(vocabulary), 12, 10)
    with pytest.raises(UsageError, match=f"token id {token} is not"):
        shared.columns_of(torch.tensor([1, token]))
    contiguous = shared_vocabulary(bpe(), bpe(), 300, 300)
    with pytest.raises(UsageError, match="token id 299 is not"):
        contiguous.columns_of(torch.tensor([299]))


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_head_with_fewer_rows_than_tokens_is_refused(side: str) -> None:
    rows = {"teacher_rows": 1000, "student_rows": 1000, f"{side}_rows": REAL - 1}
    with pytest.raises(UsageError, match=rf"{side}'s head has 264 rows.*<\|image\|>.* as id 264"):
        shared_vocabulary(bpe(), bpe(), **rows)
    shared_vocabulary(bpe(), bpe(), **{**rows, f"{side}_rows": REAL})


def test_logits_of_neither_head_are_refused() -> None:
    shared = shared_vocabulary(bpe(), bpe(), REAL + 2, REAL + 1)
    with pytest.raises(UsageError, match="columns"):
        shared.of(torch.randn(2, REAL + 3))
