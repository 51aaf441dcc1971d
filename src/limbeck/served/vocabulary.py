"""The server's tokens as ids of a tokenizer that is here; what is ambiguous is never guessed.

vLLM names tokens by id. Others give a token's bytes, which say which token it is where the
tokenizer has one token of these bytes; half of a character that was replaced by U+FFFD does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.tokens import answer_tokens, turn_frame
from limbeck.models.vocabulary import shared_vocabulary

if TYPE_CHECKING:
    from limbeck.models.vocabulary import Vocabulary

BY_ID = "token_id:"
"""How vLLM writes a token when asked to `return_tokens_as_token_ids`."""

_REPLACEMENT = "�".encode()
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class UnusableError(Exception):
    """Why the log-probabilities of one answer cannot be used."""


class ServedVocabulary:
    """The tokenizer of a served model.

    Args:
        folder: holds it, in Hugging Face layout.

    Raises:
        UsageError: it cannot be read, or nothing says how an answer ends.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._ids: set[int] = set(self.tokenizer.get_vocab().values())
        self.rows = max(self._ids) + 1
        self._shared: Vocabulary = shared_vocabulary(
            self.tokenizer, self.tokenizer, self.rows, self.rows
        )
        self.prefix, self.end_ids = turn_frame(self.tokenizer, self._apply)

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return self._shared.size

    def answer_tokens(self, text: str) -> list[int]:
        """Ids of an answer with its end of turn."""
        return answer_tokens(self.tokenizer, self.prefix, text, self.end_ids)

    def columns_of(self, ids: Any) -> Any:
        """Where ids, as a tensor, are among the tokenizer's tokens."""
        return self._shared.columns_of(ids)

    def names(self, ids: Sequence[int]) -> list[str]:
        """Tokens for people."""
        return self.tokenizer.convert_ids_to_tokens(list(ids))

    def known(self, token_id: int) -> int:
        """The id, if the tokenizer has it.

        Raises:
            UnusableError: it has not, as for a padding row of the server's head.
        """
        if token_id not in self._ids:
            raise UnusableError(f"the tokenizer here has no token {token_id}")
        return token_id

    def id_of(self, entry: dict[str, Any]) -> int:
        """The id of a token in a response: `{"token": ..., "bytes": [...]}`.

        Raises:
            UnusableError: no token of the tokenizer, or several, can be meant.
        """
        name, content = entry.get("token"), entry.get("bytes")
        if isinstance(name, str) and name.startswith(BY_ID):
            try:
                return self.known(int(name.removeprefix(BY_ID)))
            except ValueError as error:
                raise UnusableError(f"{name!r} is no token") from error
        if not isinstance(content, list):
            raise UnusableError(f"the server does not say which bytes token {name!r} has")
        found = self._by_bytes.get(bytes(content), ())
        if len(found) != 1 or _REPLACEMENT in bytes(content):
            many = "several tokens" if len(found) > 1 else "no token"
            raise UnusableError(f"{many} of the tokenizer can be the server's {name!r}")
        return found[0]

    @cached_property
    def _by_bytes(self) -> dict[bytes, tuple[int, ...]]:
        by_byte = _byte_characters() if self._is_byte_level else None
        added = {t: i for i, t in enumerate_added(self.tokenizer)}
        table: dict[bytes, tuple[int, ...]] = {}
        for token, token_id in self.tokenizer.get_vocab().items():
            if token in added:
                content = token.encode()
            elif by_byte is not None:
                content = bytes(by_byte[character] for character in token)
            elif piece := _BYTE_PIECE.fullmatch(token):
                content = bytes([int(piece[1], 16)])
            else:
                content = token.replace("▁", " ").encode()
            table[content] = (*table.get(content, ()), token_id)
        return table

    @property
    def _is_byte_level(self) -> bool:
        decoder = json.loads(self.tokenizer.backend_tokenizer.to_str())["decoder"]
        return "ByteLevel" in json.dumps(decoder)

    def _apply(self, messages: list[dict[str, Any]], prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=prompt, tokenize=False
        )


def enumerate_added(tokenizer: Any) -> list[tuple[int, str]]:
    """Ids and texts of the tokens that stand for themselves, special ones among them."""
    return [(i, token.content) for i, token in tokenizer.added_tokens_decoder.items()]


def _byte_characters() -> dict[str, int]:
    """The byte that a character of a byte-level token stands for (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return table | {chr(256 + number): byte for number, byte in enumerate(others)}
