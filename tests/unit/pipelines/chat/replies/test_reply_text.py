"""A reader of a reply sees its text and its thinking, no special tokens, and nothing from the stop string on."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.reply_text import PlainSections, ReplyText
from pipelines.chat_interface import Section

END = Piece("<|im_end|>", special=True)
THINK, ANSWER = Piece("<|think|>", special=True), Piece("<|answer|>", special=True)


class Texts:
    """A stream whose tokens are the indices of prepared pieces; one last piece comes with the end."""

    def __init__(self, *pieces: Piece | str, last: str = "") -> None:
        self._pieces = [piece if isinstance(piece, Piece) else Piece(piece) for piece in pieces]
        self._last = last

    def push(self, token: int) -> Sequence[Piece]:
        return (self._pieces[token],)

    def finish(self) -> Sequence[Piece]:
        last, self._last = self._last, ""
        return (Piece(last),) if last else ()


class MarkedSections:
    """Thinking is between two special tokens, which it passes on; a word at its end is held back."""

    section: Section = "content"

    def push(self, piece: Piece) -> Sequence[tuple[Section, Piece]]:
        if piece in (THINK, ANSWER):
            self.section = "thinking" if piece == THINK else "content"
        return ((self.section, piece),)

    def finish(self) -> Sequence[tuple[Section, Piece]]:
        return ((self.section, Piece("(held)")),)


def test_special_tokens_are_left_out_of_the_text() -> None:
    reply = ReplyText(Texts("Hello", END, "!"), PlainSections(), [])
    assert [list(reply.push(token)) for token in range(3)] == [[("content", "Hello")], [], [("content", "!")]]
    assert reply.text == "Hello!"
    assert not reply.stopped


def test_reply_ends_before_a_stop_string_that_is_a_special_token() -> None:
    reply = ReplyText(Texts("Hello there!", END, "\nuser"), PlainSections(), ["<|im_end|>"])
    shown = [part for token in range(2) for part in reply.push(token)]
    assert reply.stopped
    assert [*shown, *reply.finish()] == [("content", "Hello there!")]
    assert reply.text == "Hello there!"


def test_thinking_is_told_apart_and_stop_strings_in_it_do_not_end_the_reply() -> None:
    reply = ReplyText(Texts(THINK, "a STOP b", ANSWER, "c STOP d"), MarkedSections(), ["STOP"])
    assert reply.section == "content"
    assert not reply.push(0)
    assert reply.section == "thinking"
    assert reply.push(1) == [("thinking", "a STOP b")]
    assert not reply.stopped
    reply.push(2)
    assert reply.push(3) == [("content", "c ")]
    assert reply.stopped
    assert not reply.finish()
    assert (reply.thinking, reply.text) == ("a STOP b", "c ")


def test_stop_string_is_not_put_together_from_thinking_and_content() -> None:
    reply = ReplyText(Texts(THINK, "ST", ANSWER, "OP"), MarkedSections(), ["STOP"])
    for token in range(4):
        reply.push(token)
    assert not reply.stopped
    assert (reply.thinking, reply.text) == ("ST", "OP")


def test_end_shows_what_stream_sections_and_stop_strings_held_back_in_order() -> None:
    reply = ReplyText(Texts("a\n", last="b\n"), MarkedSections(), ["\n\n", "\n(helpless)"])
    assert reply.push(0) == [("content", "a")]
    assert reply.finish() == [("content", "\nb\n(held)")]
    assert reply.text == "a\nb\n(held)"


def test_adjacent_texts_of_one_section_are_joined() -> None:
    class Twice(MarkedSections):
        def push(self, piece: Piece) -> Sequence[tuple[Section, Piece]]:
            return [*super().push(piece), *super().push(piece)]

    reply = ReplyText(Texts("ab", THINK, "c"), Twice(), [])
    assert [list(reply.push(token)) for token in range(3)] == [[("content", "abab")], [], [("thinking", "cc")]]


def test_nothing_behind_a_stop_string_is_shown_though_it_came_with_the_same_token() -> None:
    class Both(PlainSections):
        def push(self, piece: Piece) -> Sequence[tuple[Section, Piece]]:
            return [("content", piece), ("thinking", piece)]

    reply = ReplyText(Texts("a STOP"), Both(), ["STOP"])
    assert reply.push(0) == [("content", "a ")]
    assert reply.thinking == ""
