"""Tells thinking from answer where tags surround the thinking at the beginning of a reply. Any thread; no torch.

A tag counts only where a reply or a section begins, or where the prompt has opened it. Later ones are mentions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pipelines.chat.replies.detokenize import Piece
from pipelines.chat.replies.markup import WHITE, n_partial, split_pieces, text_of
from pipelines.chat.replies.reply_text import ANSWER, FREE, NextPart, SectionReader
from pipelines.chat_interface import Section


@dataclass(frozen=True, slots=True)
class Tags:
    open: str
    close: str
    gap: str = ""  # white space inside an empty block of thinking
    after: str = ""  # white space between the block and the answer


_LINES = ("\n\n", "\n\n")  # how most models set their tags apart

# More specific tags first: some templates also mention <think>.
KNOWN_TAGS = (
    Tags("<seed:think>", "</seed:think>"),  # Seed-OSS
    Tags("<mm:think>", "</mm:think>"),  # MiniMax M3
    Tags("[THINK]", "[/THINK]"),  # Magistral, Ministral
    Tags("◁think▷", "◁/think▷"),  # Kimi-VL
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere Command R7B and A
    Tags("<|channel>thought", "<channel|>", "\n"),  # Gemma 4
    Tags("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Tags("<|begin_of_thought|>", "<|end_of_thought|>", *_LINES),  # OpenThinker, Sky-T1
    Tags("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", "\n", "\n"),  # Apriel
    Tags("Here is my thought process:", "Here is my response:", *_LINES),  # Granite 3.2
    Tags("<think>", "</think>", *_LINES),  # Qwen 3, DeepSeek R1, GLM 4.5, SmolLM3, Hunyuan, Nemotron, Granite 3.3, …
    Tags("<thought>", "</thought>", *_LINES),  # EXAONE Deep
    Tags("<thinking>", "</thinking>", *_LINES),
    Tags("<reasoning>", "</reasoning>", *_LINES),
)

# Tags that some models set around the answer: the end of each by its beginning.
KNOWN_ANSWERS = {
    "<|START_RESPONSE|>": "<|END_RESPONSE|>",  # Cohere Command R7B and A
    "<|START_TEXT|>": "<|END_TEXT|>",  # Cohere Command A Plus
    "<|begin_of_solution|>": "<|end_of_solution|>",  # OpenThinker, Sky-T1
    "[BEGIN FINAL RESPONSE]": "[END FINAL RESPONSE]",  # Apriel
    "<answer>": "</answer>",  # Hunyuan A13B
    "<response>": "</response>",  # Granite 3.3, ERNIE 4.5
}


def tag_format(template: str, added_tokens: Collection[str], header: str) -> TagFormat | None:
    """Return the format of a model whose chat template or added tokens name known tags.

    header: what the template writes where a reply begins, without tags; "" if unknown.
    """
    named = [tags for tags in KNOWN_TAGS if tags.open in template or tags.close in template]
    named += [tags for tags in KNOWN_TAGS if tags.open in added_tokens and tags.close in added_tokens]
    if not named:
        return None
    answers = {a: end for a, end in KNOWN_ANSWERS.items() if a in template or a in added_tokens}
    return TagFormat(_as_written(named[0], template), answers, header)


def _as_written(tags: Tags, template: str) -> Tags:
    """Return the tags with the white space that the template itself puts into an empty block."""
    white = r"((?:\\n|[ \n])*)"
    match = re.search(re.escape(tags.open) + white + re.escape(tags.close) + white, template)
    if match is None:
        return tags
    gap, after = (text.replace("\\n", "\n") for text in match.groups())
    return Tags(tags.open, tags.close, gap, after)


class TagFormat:
    def __init__(self, tags: Tags, answers: Mapping[str, str], header: str) -> None:
        self._tags = tags
        self._answers = answers
        self._all = (tags.open, tags.close, *answers)
        self._header = min((header.partition(tag)[0] for tag in self._all), key=len).strip(WHITE)

    @property
    def closing(self) -> str | None:
        return ("\n" if self._tags.gap else "") + self._tags.close + self._tags.after

    def reader(self, opening: str) -> SectionReader:
        return self._reader(self._begun(opening))

    def without_thinking(self, opening: str) -> str | None:
        tags, begun = self._tags, self._begun(opening)
        reader = self._reader(begun)
        if reader.at_start:
            return tags.open + tags.gap + tags.close + tags.after
        if reader.section == "content":
            return ""
        if reader.fresh:
            return tags.gap.removeprefix(begun.rpartition(tags.open)[2]) + tags.close + tags.after
        return self.closing

    def _reader(self, begun: str) -> TagReader:
        reader = TagReader(self._tags, self._answers)
        reader.resume(begun)
        return reader

    def _begun(self, opening: str) -> str:
        """Return the part of the reply that the prompt has written: what follows the header, or the last tag."""
        if self._header and self._header in opening:
            return opening.rpartition(self._header)[2]
        return next((opening[start:] for tag in self._all if (start := opening.rfind(tag)) >= 0), "")


class TagReader:
    """Reads one reply. Tags are passed on as special pieces; white space around them is left out."""

    def __init__(self, tags: Tags, answers: Mapping[str, str]) -> None:
        self._tags = tags
        self._answers = answers
        self.section: Section = "content"
        self.fresh = True  # nothing but white space came in this section
        self._after_tag = False  # white space at the beginning of this section is not shown
        self._end = ""  # the tag that ends the answer, where a tag began it
        self._has_thought = False  # some thinking was shown
        self._held: list[Piece] = []

    @property
    def at_start(self) -> bool:
        """Whether the reply has neither text nor tags yet."""
        return self.fresh and not self._after_tag

    @property
    def next_part(self) -> NextPart:
        if self.section == "thinking":
            n_begun = n_partial(text_of(self._held), self._tags.close)
            return NextPart(closing=self._tags.close[n_begun:]) if n_begun else FREE
        if not self.fresh:
            return ANSWER
        thinking = (self._tags.open,) if self.at_start else ()
        opening = () if self._end else tuple(self._answers)
        return NextPart(answer=True, white=self._after_tag, thinking=thinking, opening=opening)

    def resume(self, begun: str) -> None:
        """Read the beginning of the reply that is part of the prompt."""
        self.push(Piece(begun))
        self._held.clear()
        self._has_thought = False

    def push(self, piece: Piece) -> Sequence[tuple[Section, Piece]]:
        if not (self.fresh or self._end) and self.section == "content":
            return (("content", piece),)
        self._held.append(piece)
        shown: list[tuple[Section, Piece]] = []
        while self._held and self._read(shown):
            pass
        return shown

    def finish(self) -> Sequence[tuple[Section, Piece]]:
        shown: list[tuple[Section, Piece]] = []
        text = text_of(self._held)
        if self._end and text.rstrip(WHITE).endswith(self._end):
            self._show(shown, [Piece(self._end, special=True)])
        elif text.strip(WHITE) or self.at_start or (self._end and not self.fresh):
            if self.fresh:
                self._begin_text(shown)
            self._show(shown, self._held)
        self._held = []
        return shown

    def _read(self, shown: list[tuple[Section, Piece]]) -> bool:
        """Read what is held; returns whether there may be more to read."""
        if self.fresh:
            return self._read_beginning(shown)
        if self.section == "thinking":
            return self._read_thinking(shown)
        if self._end:
            return self._read_answer(shown)
        self._show(shown, self._held)
        self._held = []
        return False

    def _read_beginning(self, shown: list[tuple[Section, Piece]]) -> bool:
        text = text_of(self._held)
        body = text.lstrip(WHITE)
        expected = [self._tags.open, self._tags.close]
        if self.section == "content":
            expected += self._answers
        for tag in expected:
            if body.startswith(tag):
                self._enter(shown, tag)
                self._held = split_pieces(self._held, len(text) - len(body) + len(tag))[1]
                return True
        if any(tag.startswith(body) for tag in expected):
            return False
        white, rest = split_pieces(self._held, len(text) - len(body))
        if rest[0].special:  # an unknown special token is no text: tags may still follow
            shown.append((self.section, rest[0]))
            self._held = white + rest[1:]
            return len(rest) > 1
        self._begin_text(shown)
        return True

    def _begin_text(self, shown: list[tuple[Section, Piece]]) -> None:
        self.fresh = False
        if self._after_tag:
            text = text_of(self._held)
            self._held = split_pieces(self._held, len(text) - len(text.lstrip(WHITE)))[1]
        if self.section == "thinking" and self._has_thought:
            shown.append(("thinking", Piece("\n\n")))

    def _read_thinking(self, shown: list[tuple[Section, Piece]]) -> bool:
        text, close = text_of(self._held), self._tags.close
        start = text.find(close)
        end = start if start >= 0 else len(text) - n_partial(text, close)
        before, self._held = split_pieces(self._held, len(text[:end].rstrip(WHITE)))
        self._show(shown, before)
        if start < 0:
            return False
        self._held = split_pieces(self._held, start + len(close) - len(text_of(before)))[1]
        self._enter(shown, close)
        return True

    def _read_answer(self, shown: list[tuple[Section, Piece]]) -> bool:
        """The tag that ends an answer counts only where nothing but white space and special tokens follow."""
        *earlier, last = self._held
        text = text_of(earlier).rstrip(WHITE)
        if last.special and text.endswith(self._end):
            before, _ = split_pieces(earlier, len(text.removesuffix(self._end).rstrip(WHITE)))
            self._show(shown, [*before, Piece(self._end, special=True), last])
            self._held, self._end = [], ""
            return False
        text = text_of(self._held)
        stripped = text.rstrip(WHITE)
        if stripped.endswith(self._end):
            end = len(stripped) - len(self._end)
        else:
            end = len(text) - n_partial(text, self._end)
        before, self._held = split_pieces(self._held, len(text[:end].rstrip(WHITE)))
        self._show(shown, before)
        return False

    def _enter(self, shown: list[tuple[Section, Piece]], tag: str) -> None:
        """Begin the section that the tag opens."""
        self.section = "thinking" if tag == self._tags.open else "content"
        self.fresh = self._after_tag = True
        self._end = self._answers.get(tag, "")
        shown.append((self.section, Piece(tag, special=True)))

    def _show(self, shown: list[tuple[Section, Piece]], pieces: Sequence[Piece]) -> None:
        shown.extend((self.section, piece) for piece in pieces)
        if self.section == "thinking" and any(piece.text and not piece.special for piece in pieces):
            self._has_thought = True
