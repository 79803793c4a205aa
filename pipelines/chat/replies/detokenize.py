"""Turns tokens into text as they come, whatever the kind of tokenizer: each character once all its bytes are there.

The text of a token behind others is found out by decoding the token twice in a row, and remembered as bytes; replies
are joined from these bytes. Tokenizers whose decoder changes a token by its neighbors decode a few tokens each time
instead. Any thread; no torch.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

REPLACEMENT = "\ufffd"  # decoders return it for bytes that are no character, or not a whole one yet
MAX_OPEN_BYTES = 3  # most bytes of an incomplete UTF-8 character
MAX_CONTEXT = 8  # tokens that are decoded again with each new one
MAX_PENDING = 256  # tokens that are decoded again while they have no text

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")  # SentencePiece's byte fallback
# Decoders of the `tokenizers` library that give each token behind the first the same text whatever its neighbors.
_SEPARATE_DECODERS = {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply as text."""

    text: str
    special: bool = False  # the name of a special token: stop strings see it, readers of the reply do not


class TokenStream(Protocol):
    """The text of a growing list of tokens."""

    def push(self, token: int) -> Sequence[Piece]:
        """Return what this token completes; nothing while a character is incomplete."""

    def finish(self) -> Sequence[Piece]:
        """Return what was held back, because the reply ends here. An incomplete character is dropped."""


@dataclass(frozen=True, slots=True)
class _Token:
    utf8: bytes  # its text when other text precedes it; may begin or end inside a character
    pieces: tuple[Piece, ...]  # the same when it is whole characters, else empty
    special: bool


class Detokenizer:
    """The texts of one tokenizer's tokens. Made once; each token is looked at when it first occurs."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._may_be_special = {token for token, options in added.items() if options.special}
        self._may_be_special.update(tokenizer.all_special_ids)
        self._has_separate_texts = _has_separate_texts(tokenizer)
        self._tokens: dict[int, _Token] = {}

    def stream(self, *, after_text: bool = False) -> TokenStream:
        """A reply that begins. after_text: it goes on with text, so that a space before its first word is kept."""
        return (_ByteStream if self._has_separate_texts else _WindowStream)(self, after_text)

    def text_of(self, token: int) -> str:
        """The whole characters of one token, with the space before a word; of a special token its name."""
        return self.utf8_of(token).decode("utf-8", "ignore")

    def utf8_of(self, token: int) -> bytes:
        """The bytes of one token, with the space before a word; of a special token its name."""
        return self.read(token).utf8

    def read(self, token: int) -> _Token:
        known = self._tokens.get(token)
        if known is None:
            known = self._tokens[token] = self._look_at(token)
        return known

    def decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def name_of(self, token: int) -> str:
        """As the vocabulary spells it; empty for ids that the tokenizer does not know."""
        name = self._tokenizer.convert_ids_to_tokens(token)
        return name if isinstance(name, str) else ""

    def _look_at(self, token: int) -> _Token:
        alone = self.decode([token])
        if token in self._may_be_special and not alone:
            name = self.name_of(token)
            return _Token(name.encode(), (Piece(name, special=True),), special=True)
        twice = self.decode([token, token])
        utf8 = (twice[len(alone) :] if twice.startswith(alone) else alone).encode("utf-8", "replace")
        if REPLACEMENT in alone:
            utf8 = bytes_of_name(self.name_of(token)) or utf8
        try:
            text = utf8.decode()
        except UnicodeDecodeError:
            return _Token(utf8, (), special=False)
        return _Token(utf8, (Piece(text),) if text else (), special=False)


class _ByteStream:
    """Joins the bytes of tokens."""

    def __init__(self, detokenizer: Detokenizer, after_text: bool) -> None:
        self._detokenizer = detokenizer
        self._has_begun = after_text
        self._open = b""  # the first bytes of a character

    def push(self, token: int) -> Sequence[Piece]:
        known = self._detokenizer.read(token)
        if known.pieces and self._has_begun and not self._open:
            return known.pieces
        if known.special:
            return (*self._join(b"", ends=True), *known.pieces)  # no character goes on behind a special token
        utf8 = known.utf8
        if utf8 and not self._has_begun:
            self._has_begun = True
            if known.pieces:  # decoders drop the space before the first word
                utf8 = self._detokenizer.decode([token]).encode()
        return self._join(utf8, ends=False)

    def finish(self) -> Sequence[Piece]:
        self._open = b""
        return ()

    def _join(self, utf8: bytes, *, ends: bool) -> Sequence[Piece]:
        utf8 = self._open + utf8
        text, n_read = codecs.utf_8_decode(utf8, "replace", ends)
        self._open = utf8[n_read:]
        return (Piece(text),) if text else ()


class _WindowStream:
    """Decodes the newest tokens together with a few whose text has been returned already.

    A decoder may treat the first token of a list specially, and the last one too: it is decoded with and without a
    follower, and only what both have in common is returned.
    """

    def __init__(self, detokenizer: Detokenizer, after_text: bool) -> None:
        self._detokenizer = detokenizer
        self._is_primed = not after_text
        self._window: list[int] = []
        self._n_pending = 0  # tokens at the end of the window of which no text has been returned
        self._n_shown = 0  # characters of the decoded window that have been returned

    def push(self, token: int) -> Sequence[Piece]:
        known = self._detokenizer.read(token)
        if known.special:
            return known.pieces
        decode = self._detokenizer.decode
        if not self._is_primed:
            self._is_primed = True
            self._window, self._n_shown = [token], len(decode([token]))
        self._window.append(token)
        self._n_pending += 1
        text = decode(self._window)
        n_sure = _n_common(text, decode([*self._window, token]))
        end = min(n_sure, len(text) - self._n_open(text))
        if end <= self._n_shown:
            if self._n_pending > MAX_PENDING:
                del self._window[-self._n_pending]
                self._n_pending -= 1
            return ()
        new = text[self._n_shown : end]
        self._n_shown = end
        if len(self._window) > MAX_CONTEXT:
            self._window = self._window[-max(self._n_pending, MAX_OPEN_BYTES + 1) :]
            self._n_shown = max(0, len(decode(self._window)) - (len(text) - end))
        self._n_pending = 0
        return (Piece(new),)

    def finish(self) -> Sequence[Piece]:
        text = self._detokenizer.decode(self._window)
        new = text[self._n_shown : len(text) - self._n_open(text)]
        self._n_shown = len(text)
        return (Piece(new),) if new else ()

    def _n_open(self, text: str) -> int:
        """Characters at the end of the text that may stand for the first bytes of a character."""
        if not text.endswith(REPLACEMENT) or REPLACEMENT in self._detokenizer.name_of(self._window[-1]):
            return 0
        return min(MAX_OPEN_BYTES, len(text) - len(text.rstrip(REPLACEMENT)))


def _has_separate_texts(tokenizer: Any) -> bool:
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return False  # without a decoder the library puts a space between tokens
    try:
        state = json.loads(decoder.__getstate__())
    except Exception:  # noqa: BLE001  # a decoder written in Python has no such state
        return False
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    kinds = [step["type"] for step in steps]
    if not _SEPARATE_DECODERS.issuperset(kinds):
        return False
    n_separate = next((index for index, kind in enumerate(kinds) if kind in ("ByteLevel", "Fuse")), len(kinds))
    joined = steps[n_separate + 1 :]  # what works on the whole text
    return all(step["type"] == "Strip" and step["start"] <= 1 and step["stop"] == 0 for step in joined)


def _n_common(one: str, other: str) -> int:
    """Characters at the start that both have in common."""
    if other.startswith(one):
        return len(one)
    return next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))


def bytes_of_name(name: str) -> bytes:
    """The bytes that a token's name spells in one of the two ways that there are; empty if it spells none."""
    if match := _BYTE_TOKEN.fullmatch(name):
        return bytes.fromhex(match[1])
    try:
        return bytes(_BYTE_LEVEL[character] for character in name)
    except KeyError:
        return b""


def _byte_level_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE. Source: `bytes_to_unicode` of GPT-2's encoder.py."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_LEVEL = _byte_level_alphabet()
