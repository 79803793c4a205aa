"""Tokenizes a rendered template so that no text of a client becomes a special token. Any thread; no torch.

A client may spell out "<|im_end|>". The template's own special tokens are known from its skeleton, which it renders
with placeholders for all texts. When the tokens of the prompt hold others, the spelled-out ones are broken: a mark
inside each of them, which is not part of the text, keeps the tokenizer from reading it as one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from pipelines.chat_interface import PromptRefused

# Markup that no tokenizer has as a special token, but which a template may look for in a text.
MARKUP = r"</?\w[^<>\s]{0,40}>|<\|[^<>\s]{1,60}\|?>|\[/?[A-Z_]{2,30}\]"
NO_TEXT = "The messages contain characters that are no text."
MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode's noncharacters: no text has all of them


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    ids: frozenset[int]
    texts: re.Pattern[str]
    texts_and_markup: re.Pattern[str]


# One entry per tokenizer in use: asking it for its added tokens takes milliseconds.
_KNOWN: WeakKeyDictionary[Any, SpecialTokens] = WeakKeyDictionary()


def special_tokens(tokenizer: Any, more: Collection[int] = ()) -> SpecialTokens:
    """more: added tokens that count as special from now on: those of pictures, which not every tokenizer marks so."""
    found = _KNOWN.get(tokenizer)
    if found is None or not found.ids.issuperset(set(more) - {tokenizer.unk_token_id}):
        known = tokenizer.added_tokens_decoder.items()
        added = {token: each.content for token, each in known if each.special or token in more}
        texts = sorted(filter(None, added.values()), key=len, reverse=True)
        pattern = "|".join(map(re.escape, texts)) or "(?!)"
        # A text that the tokenizer has no token for becomes the unknown token: that one says nothing about a client.
        ids = frozenset(added) - {tokenizer.unk_token_id}
        found = SpecialTokens(ids, re.compile(pattern), re.compile(f"{pattern}|{MARKUP}"))
        _KNOWN[tokenizer] = found
    return found


def mark_for(texts: Sequence[str]) -> str:
    """Returns a character that none of the texts holds. Raises `PromptRefused` when they hold all that may be."""
    mark = next((mark for mark in MARKS if not any(mark in text for text in texts)), None)
    if mark is None:
        raise PromptRefused(NO_TEXT)
    return mark


def broken(text: str, pattern: re.Pattern[str], mark: str) -> str:
    """Returns the text with a mark behind the first character of each match."""
    return pattern.sub(lambda match: match[0][0] + mark + match[0][1:], text)


def encode(tokenizer: Any, text: str) -> list[int]:
    """Raises `PromptRefused` for text that is none."""
    try:
        return list(tokenizer.encode(text, add_special_tokens=False))
    except (TypeError, ValueError) as error:  # half of a surrogate pair is a Python string but not text
        raise PromptRefused(NO_TEXT, str(error)) from error


def encode_marked(tokenizer: Any, text: str, mark: str) -> list[int]:
    """Tokenizes the pieces between marks one by one, as pieces of one text."""
    first, *others = text.split(mark)
    tokens = encode(tokenizer, first)
    newline = encode(tokenizer, "\n")
    for piece in filter(None, others):
        # Behind a line break, because SentencePiece puts a space before the first word of a text.
        behind = encode(tokenizer, "\n" + piece)
        tokens += behind[len(newline) :] if behind[: len(newline)] == newline else encode(tokenizer, piece)
    return tokens


def specials_in(tokenizer: Any, tokens: Sequence[int]) -> list[int]:
    ids = special_tokens(tokenizer).ids
    return [token for token in tokens if token in ids]
