"""Defines what is known of a model's replies: how thinking and answer are told apart. Any thread; no torch."""

from __future__ import annotations

from typing import Protocol

from pipelines.chat.replies.reply_text import PlainSections, SectionReader


class ReplyFormat(Protocol):
    """How the replies of one model are built. Immutable: one serves all replies of a lane.

    An `opening` is the text of the prompt behind the last message of the user, with special tokens spelled out. It ends
    with the header of the reply, or with the beginning of a reply that the model continues (see `Prompt.opening`).
    """

    @property
    def closing(self) -> str | None:
        """The text that makes a model which thinks begin its answer; None where no text does."""

    def reader(self, opening: str) -> SectionReader:
        """Return a reader for one reply that follows `opening`."""

    def without_thinking(self, opening: str) -> str | None:
        """Return what to append to `opening` so that the model answers at once; None where it never thinks."""


class PlainFormat:
    """The format of a model that is not known to think: all is content."""

    closing = None

    def reader(self, opening: str) -> SectionReader:
        return PlainSections()

    def without_thinking(self, opening: str) -> str | None:
        return None
