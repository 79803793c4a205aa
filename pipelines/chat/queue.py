"""The chats of one lane: which of them run, which wait, and which are canceled. Device thread only."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from pipelines.chat.sequence import ChatSequence
from pipelines.interface import LaneStage, NextStep

COMPONENT = "model"  # a language model has one component
MAX_STEP_TOKENS = 1024  # most tokens of one prompt that a step reads


class ChatQueue:
    def __init__(self) -> None:
        self.running: dict[str, ChatSequence] = {}  # in the batch, by request id
        self.waiting: deque[ChatSequence] = deque()  # in order of arrival
        self._canceled: list[str] = []  # ids of chats that are still to be removed

    def __bool__(self) -> bool:
        return bool(self.running or self.waiting)

    def cancel(self, request_id: str) -> None:
        """Mark a chat as canceled; it takes part in no further step. Unknown ids are ignored."""
        known = request_id in self.running or any(chat.id == request_id for chat in self.waiting)
        if known and request_id not in self._canceled:
            self._canceled.append(request_id)

    def take_canceled(self) -> tuple[Sequence[str], Sequence[str]]:
        """Remove the canceled chats. Returns the ids of all of them, and of those that were running."""
        canceled, self._canceled = self._canceled, []
        ran = [request_id for request_id in canceled if request_id in self.running]
        self.remove(canceled)
        return canceled, ran

    def remove(self, ids: Collection[str]) -> None:
        for request_id in ids:
            if self.running.pop(request_id, None) is None:
                self.waiting = deque(chat for chat in self.waiting if chat.id != request_id)

    def put_back(self) -> None:
        """Make all running chats wait again, before the others and in the same order."""
        self.waiting.extendleft(reversed(self.running.values()))
        self.running.clear()

    def next_chats(self) -> Sequence[ChatSequence]:
        """The running chats or, when none runs, the first that waits: the KV cache must hold at least these."""
        return [*self.running.values()] or [*self.waiting][:1]

    def unread(self) -> Sequence[ChatSequence]:
        """The running chats whose prompt has not been read to its end."""
        return [chat for chat in self.running.values() if not chat.n_tokens]

    def next_step(self, max_running: int) -> NextStep | None:
        running = [chat for chat in self.running.values() if chat.id not in self._canceled]
        chats = [*running, *(chat for chat in self.waiting if chat.id not in self._canceled)]
        if not chats:
            return None
        ids = tuple(chat.id for chat in chats[:max_running])
        reads_prompts = any(not chat.n_tokens for chat in running) or len(ids) > len(running)
        stage: LaneStage = "prefill" if reads_prompts else "decode"
        n_tokens = max(len(chat.prompt) for chat in chats) if reads_prompts else 1
        return NextStep(COMPONENT, "forward", stage, stage, min(n_tokens, MAX_STEP_TOKENS), len(ids), ids)
