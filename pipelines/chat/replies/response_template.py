"""Tells thinking from answer as the `response_template` of a tokenizer declares. Any thread; no torch.

The parser is transformers' own. Only the regions of the text are taken from it, not the values that it makes of them:
so a call of a tool that is not JSON cannot end a reply. All use of its internals is in this file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from transformers.utils.chat_parsing.response_parser import ResponseParser
from transformers.utils.chat_parsing.response_templates import load_response_template

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.markup import WHITE
from pipelines.chat.replies.reply_format import ReplyFormat
from pipelines.chat.replies.reply_text import ANSWER, FREE, NextPart, SectionReader
from pipelines.chat.replies.thinking_tags import TagFormat, Tags
from pipelines.chat_interface import Section

_THINKING = ("thinking", "reasoning", "reasoning_content")  # names that templates give to the field


class _Stuck(Exception):
    """The template opens regions without end where it reads no text."""


class _Parser(ResponseParser):
    """Tells of each chunk of text where it begins in all that was read."""

    _opened_at = -1  # where the last region opened without reading text

    def _accumulate(self, events: list[dict[str, Any]], text: str) -> None:
        n_before = len(events)
        super()._accumulate(events, text)
        for event in events[n_before:]:
            event["start"] = self._pos

    def _open_explicit(self, events: list[dict[str, Any]], field: Any, m: Any) -> None:
        if m.start() == m.end() == self._opened_at:
            raise _Stuck
        self._opened_at = m.end() if m.start() == m.end() else -1
        super()._open_explicit(events, field, m)

    @property
    def n_read(self) -> int:
        return int(self._pos)

    @property
    def text(self) -> str:
        return str(self._buffer)


@dataclass(frozen=True, slots=True)
class _Field:
    section: Section
    is_stripped: bool
    join: str  # between two regions of this field


def template_format(declared: object, known: ReplyFormat) -> ReplyFormat | None:
    """Return the format that a `response_template` declares; None if there is none, or it is broken.

    known: the format that the chat template suggests. It tells how thinking is ended.
    """
    try:
        spec = load_response_template(deepcopy(declared))
        fields = {name: _field(field) for name, field in spec.fields.items()}
    except Exception:  # noqa: BLE001  # the template is the checkpoint author's: any type and any pattern
        return None
    if not {"content", *_THINKING} & spec.fields.keys():
        return None
    for field in spec.fields.values():  # only where the regions are matters, not what is in them
        field.content, field.content_args, field.transform, field.join = "text", {}, None, None
        field.optional = True
    if known.closing is None:
        known = _by_literals(spec) or known
    return TemplateFormat(spec, fields, known)


def _field(field: Any) -> _Field:
    is_stripped = field.content != "text" or field.content_args.get("strip", True)
    join = "\n\n" if field.join is None else field.join
    return _Field("thinking" if field.name in _THINKING else "content", is_stripped, join)


def _by_literals(spec: Any) -> ReplyFormat | None:
    """Return the format of the tags that surround thinking, for the texts that end it."""
    for name in _THINKING:
        field = spec.fields.get(name)
        if field and field.open_literals and field.close_literals:
            begin, end = field.open_literals[0].strip(WHITE), field.close_literals[0].strip(WHITE)
            return TagFormat(Tags(begin, end, "\n\n", "\n\n"), {}, header="") if begin and end else None
    return None


def _literals(spec: Any, names: Collection[str]) -> tuple[str, ...]:
    """The texts that open the regions of these fields."""
    opened = [field.open_literals or () for name, field in spec.fields.items() if name in names]
    return tuple(literal.strip(WHITE) for literals in opened for literal in literals)


class TemplateFormat:
    def __init__(self, spec: Any, fields: dict[str, _Field], known: ReplyFormat) -> None:
        self._spec = spec
        self._fields = fields
        self._known = known

    @property
    def closing(self) -> str | None:
        return self._known.closing

    def reader(self, opening: str) -> SectionReader:
        try:
            return TemplateReader(self._spec, self._fields, opening)
        except _Stuck:
            return self._known.reader(opening)

    def without_thinking(self, opening: str) -> str | None:
        return self._known.without_thinking(opening)


class TemplateReader:
    """Reads one reply. What stands between regions is passed on as special pieces."""

    def __init__(self, spec: Any, fields: dict[str, _Field], opening: str) -> None:
        self._fields = fields
        self._outside = fields.get(spec.implicit, _Field("content", is_stripped=True, join="\n\n"))
        self._opens_thinking = _literals(spec, _THINKING)
        self._opens_content = _literals(spec, ("content",)) if spec.implicit is None else ()
        self._parser = _Parser(spec, prefix=opening)
        self._n_passed = 0  # characters of the parser's text that were passed on
        self._special: deque[tuple[int, int]] = deque()  # where special tokens begin and end in it
        self._white = ""  # at the end of what came
        self._has_failed = False
        self._has_text: set[Section] = set()
        self._fits = False
        self._enter(self._outside)
        self._follow(self._parser.initial_events, [])
        self._n_passed = self._n_fed = len(self._parser.text)
        self._white = ""
        self._has_text.clear()
        # Whether the reply has the declared form. If all text belongs to regions, one without any has not.
        self._fits = spec.implicit is not None or self._field is not self._outside

    @property
    def section(self) -> Section:
        return self._field.section

    @property
    def next_part(self) -> NextPart:
        if self.section == "thinking":
            return FREE
        if self._has_failed or "content" in self._has_text or not self._fresh:
            return ANSWER
        has_thought = "thinking" in self._has_text
        thinking = () if has_thought else self._opens_thinking
        is_outside = self._field is self._outside and bool(self._opens_content)
        return NextPart(not is_outside, white=has_thought, thinking=thinking, opening=self._opens_content * is_outside)

    def push(self, piece: Piece) -> Sequence[tuple[Section, Piece]]:
        if self._has_failed:
            return ((self.section, piece),)
        n_before, self._n_fed = self._n_fed, self._n_fed + len(piece.text)
        if piece.special:
            self._special.append((n_before, self._n_fed))
        shown: list[tuple[Section, Piece]] = []
        try:
            self._follow(self._parser.feed(piece.text), shown)
        except _Stuck:
            self._fail(shown)
        return shown

    def finish(self) -> Sequence[tuple[Section, Piece]]:
        shown: list[tuple[Section, Piece]] = []
        if self._has_failed:
            return shown
        try:
            self._follow(self._parser.finalize()[1], shown)
        except _Stuck:
            self._fail(shown)
        if self._n_passed < self._n_fed:
            self._fail(shown)
        return shown

    def _follow(self, events: Sequence[dict[str, Any]], shown: list[tuple[Section, Piece]]) -> None:
        for event in events:
            if event["type"] == "region_open":
                self._fits = True
                self._enter(self._fields[event["field"]])
            elif event["type"] == "region_chunk":
                self._pass_markup(event["start"], shown)
                self._pass_text(event["start"] + len(event["text"]), shown)
            else:
                self._enter(self._outside)
        if self._fits:
            self._pass_markup(self._parser.n_read, shown)

    def _enter(self, field: _Field) -> None:
        self._field = field
        self._fresh = True  # this region has no text yet
        self._white = ""

    def _pass_markup(self, end: int, shown: list[tuple[Section, Piece]]) -> None:
        if end > self._n_passed:
            shown.append((self.section, Piece(self._parser.text[self._n_passed : end], special=True)))
            self._n_passed = end

    def _pass_text(self, end: int, shown: list[tuple[Section, Piece]]) -> None:
        """Pass the text on up to `end`, with special tokens apart."""
        while self._n_passed < end:
            while self._special and self._special[0][1] <= self._n_passed:
                self._special.popleft()
            first, last = self._special[0] if self._special else (end, end)
            if first <= self._n_passed:
                self._pass_markup(min(last, end), shown)
            else:
                stop = min(first, end)
                self._show(self._parser.text[self._n_passed : stop], shown)
                self._n_passed = stop

    def _show(self, text: str, shown: list[tuple[Section, Piece]]) -> None:
        if self._field.is_stripped:
            text = self._white + (text.lstrip(WHITE) if self._fresh else text)
            visible = text.rstrip(WHITE)
            text, self._white = visible, text[len(visible) :]
        if not text:
            return
        if self._fresh and self.section in self._has_text:
            shown.append((self.section, Piece(self._field.join)))
        self._fresh = False
        self._has_text.add(self.section)
        shown.append((self.section, Piece(text)))

    def _fail(self, shown: list[tuple[Section, Piece]]) -> None:
        """Pass the rest on as it is."""
        self._has_failed = True
        self._field = _Field(self.section, is_stripped=False, join="")
        self._pass_text(self._n_fed, shown)
