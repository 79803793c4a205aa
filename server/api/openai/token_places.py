"""Finds where the tokens of a growing text lie in it. Pure; one for each text."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from pipelines.chat_interface import TokenLogprobs


class TokenPlaces:
    """Tokens are compared with the text, because not each is a part of it: special tokens are left out of it.

    A token that is the first part of a character lies where that character does.
    """

    def __init__(self, n_before: int = 0) -> None:
        """n_before: characters before the text."""
        self._n_before = n_before
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, text: str, tokens: Iterable[TokenLogprobs]) -> list[int]:
        """Returns the number of characters before each token. text: the next one, of which these are the tokens."""
        places, end = [], 0
        for token in tokens:
            places.append(self._n_before + end)
            own = self._decoder.decode(token.chosen.utf8)
            if end == 0 and not text.startswith(own):
                own = own.lstrip(" ")  # a tokenizer may leave out the space before the first word
            if text.startswith(own, end):
                end += len(own)
        self._n_before += len(text)
        return places
