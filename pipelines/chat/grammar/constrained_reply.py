"""Follows one reply that has a grammar: which tokens may come next, and whether it is complete. Device thread only.

What comes before the answer is not the grammar's: thinking is free, and the markup around it is that of the model's own
format. So a reply is in one of three states. Before the answer, a few texts may come: those that begin the answer or
its markup. In thinking all tokens may come but those that end the reply. In the answer the grammar decides, and the
reply may end where the grammar may.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.chat.grammar.compiler import readable
from pipelines.chat.replies.reply_text import NextPart
from pipelines.chat_interface import Constraint

MAX_WHITE = 4  # tokens of white space between thinking and answer
USUAL_S = 0.005  # of the processor for one mask
PATIENCE_S = 0.15  # more than usual, over a whole reply: then it costs the chats beside it too much
TOO_SLOW = "{} takes too long to follow: each token of the reply costs too much. Make it simpler."
UNWRITABLE = "{} asks for text that this model has no tokens for."
FAILED = "{} cannot be followed: {}."


class ReplyRefused(Exception):
    """The reply cannot go on. The message is for the client."""


class ConstrainedReply:
    def __init__(
        self,
        grammar: Constraint,
        tokens_of: Callable[[str], Sequence[int]],
        *,
        ends: Collection[int],
        never: Collection[int],
        white: Collection[int],
        may_think: bool,
    ) -> None:
        """tokens_of: the tokens of a text of markup. ends: tokens that end the reply.

        never: tokens that would end it, but are ignored. white: tokens of white space alone.
        """
        self._grammar = grammar
        self._tokens_of = tokens_of
        self._ends, self._never, self._white = sorted(ends), sorted(never), sorted(white)
        self._may_think = may_think
        self._matcher = grammar.begin()
        self._in_answer = False  # for good
        self._fits = True  # the tokens since the part began fit the grammar
        self._markup: list[Sequence[int]] = []  # what is left of texts that the tokens since then fit as well
        self._n_white = 0  # tokens of white space since then, which are not the grammar's
        self._takes_white = False
        self._part = NextPart()
        self._slow_s = 0.0
        n_words = -(-(grammar.end + 1) // 32)
        self._words: NDArray[np.uint32] = np.zeros(n_words, np.uint32)
        self._bytes = self._words.view(np.uint8)

    @property
    def is_complete(self) -> bool:
        """Whether the answer is all that the grammar describes: nothing may follow."""
        return self._in_answer and self._matcher.is_stopped() and not self._matcher.is_error()

    def begin(self, part: NextPart) -> None:
        """Begin with what may come next: at the start of a reply, and behind what no grammar decides."""
        self._part = part
        self._markup = [tokens for text in self._texts(part) if (tokens := self._tokens_of(text))]
        self._fits = part.answer or (self._grammar.grammar.whole and bool(part.opening))
        self._takes_white, self._n_white = part.white, 0
        self._in_answer = self._fits and not self._markup and not part.white

    def add(self, token: int, part: NextPart, *, forced: bool) -> None:
        """Add the next token of the reply. part: what may come behind it. forced: no one chose it."""
        if forced:
            self._begin_again(part)
        elif self._in_answer:
            self._matcher.consume_token(token)
        elif not (self._fits or self._markup):  # thinking, or what ends it
            if part != self._part:
                self._begin_again(part)
        else:
            self._add_before_answer(token, part)

    def _add_before_answer(self, token: int, part: NextPart) -> None:
        left = [markup[1:] for markup in self._markup if markup[0] == token]
        if not all(left):  # one is complete
            self._begin_again(part)
            return
        fits = self._fits and bool(self._matcher.validate_tokens([token]))
        if not fits and not left:  # white space
            self._n_white += 1
            return
        self._markup, self._fits, self._takes_white = left, fits, False
        if fits:
            self._matcher.consume_token(token)
            self._in_answer = not left

    def write_mask(self, words: NDArray[np.uint32]) -> None:
        """Write which tokens may come next, one bit each: token 0 is the lowest bit of the first word.

        Raises `ReplyRefused`; what is written is of no use then.
        """
        if not (self._fits or self._markup):  # thinking
            words[:] = ~np.uint32(0)
            _clear(words, [*self._ends, *self._never])
            if self._part.closing:  # a token with the end of the thinking and the beginning of the answer
                _clear(words, self._grammar.overrunning(self._part.closing))
            return
        words[:] = 0
        if self._fits:
            self._read_matcher()
            n = min(len(words), len(self._words))
            words[:n] = self._words[:n]
            _clear(words, [self._grammar.end, *self._never])
            if self._matcher.is_accepting():
                _set(words, self._ends)
        _set(words, [markup[0] for markup in self._markup])
        if self._takes_white and self._n_white < MAX_WHITE:
            _set(words, self._white)
        if not words.any():
            raise ReplyRefused(UNWRITABLE.format(self._grammar.grammar.field))

    def _texts(self, part: NextPart) -> Sequence[str]:
        opening = () if self._grammar.grammar.whole else part.opening
        return (*part.header, *(part.thinking if self._may_think else ()), *opening)

    def _begin_again(self, part: NextPart) -> None:
        self._matcher = self._grammar.begin()
        self.begin(part)

    def _read_matcher(self) -> None:
        began = time.thread_time()
        try:
            self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        except Exception as error:
            raise ReplyRefused(FAILED.format(self._grammar.grammar.field, readable(str(error)))) from error
        if self._matcher.is_error():
            reason = readable(self._matcher.get_error())
            raise ReplyRefused(FAILED.format(self._grammar.grammar.field, reason))
        self._slow_s += max(0.0, time.thread_time() - began - USUAL_S)
        if self._slow_s > PATIENCE_S:
            raise ReplyRefused(TOO_SLOW.format(self._grammar.grammar.field))


def _set(words: NDArray[Any], tokens: Sequence[int]) -> None:
    for token in tokens:
        if token >> 5 < len(words):
            words[token >> 5] |= np.uint32(1 << (token & 31))


def _clear(words: NDArray[Any], tokens: Sequence[int]) -> None:
    for token in tokens:
        if token >> 5 < len(words):
            words[token >> 5] &= ~np.uint32(1 << (token & 31))
