"""The messages that a chat model gets for one turn: system prompt, stored conversation, new messages. Pure data."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.chat_interface import Message


class ChatContext:
    def __init__(
        self,
        system: str | None,
        history: Sequence[Message],
        new_messages: Sequence[Message],
        first: Sequence[Message] = (),
    ) -> None:
        """system: the system prompt, ignored when `first` or `new_messages` contain one. first: before the history."""
        has_own_system = any(message.role == "system" for message in (*first, *new_messages))
        own = [Message("system", system)] if system and not has_own_system else []
        self._first = [*own, *first]
        self._history = list(history)
        self._new_messages = new_messages
        self.n_left_out = 0  # oldest messages of the history that `shorten` has removed

    @property
    def messages(self) -> tuple[Message, ...]:
        return (*self._first, *self._history, *self._new_messages)

    def shorten(self) -> bool:
        """Leaves out the older half of the history, in whole turns; returns False when there is none."""
        n_before = len(self._history)
        self._history = self._history[max(1, (n_before // 2 + 1) // 2 * 2) :]
        while self._history and self._history[0].role != "user":
            del self._history[0]
        self.n_left_out += n_before - len(self._history)
        return n_before > 0
