"""The chats of one lane: which of them run, which wait, and which are canceled. Device thread only.

Chats of one part of the cache begin to run in order of arrival, and the last to begin is the first to be put back. So
every one that runs has arrived before every one that waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from pipelines.chat.sequence import ChatSequence
from pipelines.interface import LaneStage, NextStep

COMPONENT = "model"  # a language model has one component
MAX_STEP_TOKENS = 1024  # most tokens of one prompt that a step reads


def shape_of(unread: Collection[ChatSequence]) -> str:
    """The `NextStep.shape` of a step that reads these chats, or none."""
    if any(chat.n_prompt_logprobs is not None for chat in unread):
        return "score"  # takes more memory: logits of all tokens
    return "prefill" if unread else "decode"


def length_of(chat: ChatSequence) -> int:
    """Tokens of the prompt and of the reply so far."""
    return len(chat.prompt) + chat.n_tokens


def step_units(unread: Collection[ChatSequence]) -> int:
    """The `NextStep.units` of a step that reads these chats, or none."""
    return min(max(map(length_of, unread), default=1), MAX_STEP_TOKENS)


def has_media(chat: ChatSequence) -> bool:
    return chat.request.prompt.media is not None


class ChatQueue:
    def __init__(self) -> None:
        self.running: dict[str, ChatSequence] = {}  # in the batch, by request id, oldest first
        self.waiting: deque[ChatSequence] = deque()  # in order of arrival
        # Chats with pictures (True), or without, find no room until a chat leaves or the cache changes.
        self.full_for: frozenset[bool] = frozenset()
        self._n_tokens_before: dict[str, int] = {}  # running chat → tokens that its reply had when it began to run
        self._canceled: list[str] = []  # ids of chats that are still to be removed

    def __bool__(self) -> bool:
        return bool(self.running or self.waiting)

    def run(self, place: int) -> ChatSequence:
        """Move a waiting chat to the running ones. It is read in from the beginning, with its reply so far."""
        chat = self.waiting[place]
        del self.waiting[place]
        self.running[chat.id] = chat
        self._n_tokens_before[chat.id] = chat.n_tokens
        return chat

    def cancel(self, request_id: str) -> None:
        """Mark a chat as canceled; it takes part in no further step. Unknown ids are ignored."""
        known = request_id in self.running or any(chat.id == request_id for chat in self.waiting)
        if known and request_id not in self._canceled:
            self._canceled.append(request_id)
            self.full_for = frozenset()

    def take_canceled(self) -> tuple[Sequence[str], Sequence[str]]:
        """Remove the canceled chats. Returns the ids of all of them, and of those that were running."""
        canceled, self._canceled = self._canceled, []
        ran = [request_id for request_id in canceled if request_id in self.running]
        self.remove(canceled)
        return canceled, ran

    def remove(self, ids: Collection[str]) -> None:
        for request_id in ids:
            self._n_tokens_before.pop(request_id, None)
            if self.running.pop(request_id, None) is None:
                self.waiting = deque(chat for chat in self.waiting if chat.id != request_id)
        self.full_for = frozenset()

    def put_back(self) -> None:
        """Make all running chats wait again, before the others and in the same order."""
        while self.running:
            self.put_back_newest()
        self.full_for = frozenset()

    def put_back_newest(self) -> ChatSequence:
        """Make the running chat that arrived last wait again, before the others. Its reply so far is kept."""
        return self.put_back_one([*self.running.values()][-1])

    def put_back_one(self, chat: ChatSequence) -> ChatSequence:
        del self.running[chat.id], self._n_tokens_before[chat.id]
        self.waiting.appendleft(chat)
        return chat

    def next_chats(self) -> Sequence[ChatSequence]:
        """The running chats or, when none runs, the first that waits: the KV cache must hold at least these."""
        return [*self.running.values()] or [*self.waiting][:1]

    def unread(self) -> Sequence[ChatSequence]:
        """The running chats that have not been read to their end: their prompt, and the reply of one put back."""
        return [chat for chat in self.running.values() if self._is_unread(chat)]

    def next_step(self, max_running: int) -> NextStep | None:
        running = [chat for chat in self.running.values() if chat.id not in self._canceled]
        able = (chat for chat in self.waiting if has_media(chat) not in self.full_for)
        waiting = [chat for chat in able if chat.id not in self._canceled]
        chats = [*running, *waiting[: max(0, max_running - len(running))]]
        if not chats:
            return None
        unread = [chat for chat in chats if chat.id not in self.running or self._is_unread(chat)]
        stage: LaneStage = "prefill" if unread else "decode"
        units, ids = step_units(unread), tuple(chat.id for chat in chats)
        return NextStep(COMPONENT, "forward", stage, shape_of(unread), units, len(chats), ids)

    def _is_unread(self, chat: ChatSequence) -> bool:
        return chat.n_tokens == self._n_tokens_before[chat.id]
