"""Tells thinking from answer in replies of the Harmony format, which gpt-oss writes. Any thread; no torch.

A reply is a row of messages, each with a header that is never shown:

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…<|return|>

The first header begins in the prompt. Source: OpenAI's guide to the format, github.com/openai/harmony.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Literal

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.markup import find_first, n_partial, split_pieces, text_of
from pipelines.chat.replies.reply_text import ANSWER, FREE, NextPart, SectionReader
from pipelines.chat_interface import Section

_START, _CHANNEL, _CONSTRAIN, _MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
_END, _RETURN, _CALL = "<|end|>", "<|return|>", "<|call|>"
_MARKERS = (_START, _CHANNEL, _CONSTRAIN, _MESSAGE, _END, _RETURN, _CALL)
_MARKER = re.compile("(" + "|".join(map(re.escape, _MARKERS)) + ")")
_WORD = re.compile(r"\S+")
_TO = "to="  # before the recipient of a call
_FINAL = _CHANNEL + "final" + _MESSAGE


def channel_format(
    template: str, added_tokens: Collection[str], special_tokens: Collection[str]
) -> ChannelFormat | None:
    """Return the format of a model whose chat template or added tokens name the markers of Harmony."""
    if not all(marker in template or marker in added_tokens for marker in (_START, _CHANNEL, _MESSAGE)):
        return None
    return ChannelFormat(has_special_markers=all(marker in special_tokens for marker in (_START, _CHANNEL, _MESSAGE)))


class ChannelFormat:
    closing = _END + _START + "assistant" + _FINAL

    def __init__(self, *, has_special_markers: bool) -> None:
        """has_special_markers: markers are special tokens, and the same characters as text only mention them."""
        self._has_special_markers = has_special_markers

    def reader(self, opening: str) -> SectionReader:
        return self._reader(opening)

    def without_thinking(self, opening: str) -> str | None:
        reader = self._reader(opening)
        if reader.section == "thinking":
            return self.closing
        if reader.place == "between":
            return _START + "assistant" + _FINAL
        return _FINAL if reader.place == "header" and not reader.channel else ""

    def _reader(self, opening: str) -> ChannelReader:
        reader = ChannelReader(has_special_markers=self._has_special_markers)
        reader.resume(opening)
        return reader


class ChannelReader:
    """Reads one reply. Markers are passed on as special pieces; the words of headers are left out.

    The channel analysis is thinking. All others are content, and so are messages to a tool ("commentary to=…"): what is
    passed on before their text names the tool.
    """

    def __init__(self, *, has_special_markers: bool) -> None:
        self._has_special_markers = has_special_markers
        self._held: list[Piece] = []  # may become a marker
        self.place: Literal["between", "header", "body"] = "between"  # messages
        self.channel = ""
        self._recipient = ""  # of the message, if it is a tool
        self._words = ""  # of a header, since its last marker
        self._n_free = 0  # how many words may stand there, besides the recipient
        self._names_channel = False  # they begin with the name of the channel
        self._begins = False  # the message has no text yet
        self._has_text: set[Section] = set()

    @property
    def section(self) -> Section:
        is_thinking = self.channel == "analysis" and not self._recipient and self.place != "between"
        return "thinking" if is_thinking else "content"

    @property
    def next_part(self) -> NextPart:
        if self.place == "body":
            return FREE if self.section == "thinking" else ANSWER
        if self.place == "between":
            return NextPart(header=(_START + "assistant",))
        if self.channel:  # named by the prompt
            return NextPart(thinking=(_MESSAGE,)) if self.section == "thinking" else NextPart(opening=(_MESSAGE,))
        begin = "" if self._names_channel else _CHANNEL
        return NextPart(thinking=(begin + "analysis" + _MESSAGE,), opening=(begin + "final" + _MESSAGE,))

    def resume(self, opening: str) -> None:
        """Read the part of the last message that the prompt has written."""
        starts = (opening.rfind(_START), opening.rfind(_CHANNEL))
        begun = next((opening[start:] for start in starts if start >= 0), "")
        for part in _MARKER.split(begun):
            self._read(Piece(part, special=part in _MARKERS), [])
        if self._words.strip():
            self._words, self._n_free = "", 0
        self._begins = False
        self._has_text.clear()

    def push(self, piece: Piece) -> Sequence[tuple[Section, Piece]]:
        shown: list[tuple[Section, Piece]] = []
        if self._has_special_markers or not (self._held or "<" in piece.text):  # all markers begin with it
            self._read(piece, shown)
        else:
            self._held.append(piece)
            self._read_held(shown)
        return shown

    def finish(self) -> Sequence[tuple[Section, Piece]]:
        shown: list[tuple[Section, Piece]] = []
        for piece in self._held:
            self._read(piece, shown)
        self._held = []
        if self.place == "header":
            self._read_header(shown, ends=True)
        return shown

    def _read_held(self, shown: list[tuple[Section, Piece]]) -> None:
        """Read what is held, up to what may become a marker."""
        while found := find_first(text := text_of(self._held), _MARKERS):
            start, marker = found
            before, rest = split_pieces(self._held, start)
            for piece in [*before, Piece(marker, special=True)]:
                self._read(piece, shown)
            self._held = split_pieces(rest, len(marker))[1]
        sure, self._held = split_pieces(self._held, len(text) - max(n_partial(text, marker) for marker in _MARKERS))
        for piece in sure:
            self._read(piece, shown)

    def _read(self, piece: Piece, shown: list[tuple[Section, Piece]]) -> None:
        if piece.special:
            if piece.text == _MESSAGE and self._recipient:
                piece = Piece(f" {_TO}{self._recipient}{_MESSAGE}", special=True)
            shown.append((self.section, piece))
            if piece.text in _MARKERS or piece.text.endswith(_MESSAGE):
                self._pass_marker(_MESSAGE if piece.text.endswith(_MESSAGE) else piece.text)
        elif self.place == "body":
            self._show(piece.text, shown)
        else:
            self._words += piece.text
            if self.place == "header":
                self._read_header(shown)
            elif self._words.strip():  # text outside of messages
                self._begin_body(self._words, shown)

    def _pass_marker(self, marker: str) -> None:
        if marker in (_START, _CHANNEL):
            self._recipient = "" if marker == _START else self._recipient
            # Behind the recipient, the type of the content follows the channel: "<|channel|>commentary json".
            self.place, self.channel, self._n_free = "header", "", 2 if self._recipient else 1
        elif marker == _CONSTRAIN:
            self._n_free = 1
        elif marker == _MESSAGE:
            self._begins = self.place != "body"
            self.place = "body"
        else:
            self.place, self.channel, self._recipient = "between", "", ""
        self._names_channel = marker == _CHANNEL
        self._words = ""

    def _read_header(self, shown: list[tuple[Section, Piece]], *, ends: bool = False) -> None:
        """Read the words behind the last marker. Those that no header has are text: a marker was left out."""
        n_free = self._n_free
        for word in _WORD.finditer(self._words):
            may_grow = not ends and word.end() == len(self._words)
            if word[0].startswith(_TO):
                self._recipient = word[0].removeprefix(_TO)
                n_free = 1  # the type of the content may follow: "to=functions.f json"
            elif n_free:
                n_free -= 1
                if self._names_channel and not self._words[: word.start()].strip():
                    self.channel = word[0]
            elif not (may_grow and _TO.startswith(word[0])):
                self._begin_body(self._words[word.start() :], shown)
                return

    def _begin_body(self, text: str, shown: list[tuple[Section, Piece]]) -> None:
        self.place, self._begins, self._words = "body", True, ""
        self._show(text, shown)

    def _show(self, text: str, shown: list[tuple[Section, Piece]]) -> None:
        if not text:
            return
        if self._begins and self.section in self._has_text:
            shown.append((self.section, Piece("\n\n")))
        self._begins = False
        self._has_text.add(self.section)
        shown.append((self.section, Piece(text)))
