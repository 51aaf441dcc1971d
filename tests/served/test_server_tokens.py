"""The server's tokens are found by id or by bytes, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.served.vocabulary import ServedVocabulary, UnusableError


@pytest.fixture(scope="module")
def vocabulary(taught_model: Path) -> ServedVocabulary:
    return ServedVocabulary(taught_model)


def test_every_token_is_found_by_its_true_bytes(vocabulary: ServedVocabulary) -> None:
    tokenizer = vocabulary.tokenizer
    seen: dict[bytes, int] = {}
    for token_id in range(vocabulary.rows):
        content = b"".join(
            bytes([byte]) for byte in _true_bytes(tokenizer.convert_ids_to_tokens(token_id))
        )
        seen[content] = token_id
        assert vocabulary.id_of({"token": "?", "bytes": list(content)}) == token_id
    assert len(seen) == vocabulary.rows


def _true_bytes(token: str) -> bytes:
    """By the reference: GPT-2's table, as transformers has it."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = {character: byte for byte, character in bytes_to_unicode().items()}
    if token.startswith("<|"):
        return token.encode()
    return bytes(table[character] for character in token)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"token": "token_id:100000"}, "no token 100000"),
        ({"token": "token_id:x"}, "is no token"),
        ({"token": "a"}, "does not say which bytes"),
        ({"token": "�", "bytes": [0xEF, 0xBF, 0xBD]}, "no token"),
        ({"token": "zzqq", "bytes": list(b"zzqq")}, "no token"),
    ],
)
def test_what_no_token_can_be_is_said(
    vocabulary: ServedVocabulary, entry: dict[str, object], reason: str
) -> None:
    with pytest.raises(UnusableError, match=reason):
        vocabulary.id_of(entry)


def test_bytes_that_two_tokens_have_are_ambiguous(
    vocabulary: ServedVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vocabulary._by_bytes, b"twice", (3, 4))
    with pytest.raises(UnusableError, match="several tokens"):
        vocabulary.id_of({"token": "twice", "bytes": list(b"twice")})


def test_answers_are_cut_as_the_models_own_encoder_cuts_them(
    vocabulary: ServedVocabulary, taught_model: Path, tiny_model: Path
) -> None:
    from limbeck.models.load import load_model
    from limbeck.recipe.sections import ModelSection

    for folder, own in ((taught_model, vocabulary), (tiny_model, ServedVocabulary(tiny_model))):
        encoder = load_model(ModelSection(model=str(folder)), device="cpu").encoder
        assert (own.prefix, own.end_ids) == (encoder.answer_prefix, encoder.end_ids)
        for text in ("Login screen of a book app.", "a <|im_end|> in text"):
            assert own.answer_tokens(text) == encoder.answer_tokens(text)
