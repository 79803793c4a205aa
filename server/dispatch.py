"""Each event of an engine goes to whom it concerns: the board, the delivery of a job, a chat, what is learned. Event loop only."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from server.board import Board
from server.conversation import Chats
from server.delivery import Delivery
from server.jobs import (
    EngineStatus,
    Event,
    JobCanceled,
    JobFailed,
    JobPreviewed,
    JobProgressed,
    JobReplied,
    JobReturned,
    JobStarted,
    JobText,
    OutputReady,
    PeaksLearned,
    RanOutOfMemory,
    VerdictsReached,
)
from server.metrics import Metrics


class Dispatch:
    def __init__(
        self,
        *,
        board: Board,
        delivery: Delivery,
        chats: Chats,
        metrics: Metrics,
        learned: Callable[[PeaksLearned | VerdictsReached], None],
    ) -> None:
        self._board = board
        self._delivery = delivery
        self._chats = chats
        self._metrics = metrics
        self._learned = learned

    def take(self, event: Event) -> None:
        self._metrics.take(event)
        match event:
            case EngineStatus() | JobProgressed():
                self._board.apply(event)
            case JobPreviewed():
                self._board.show(event.job_id, event.colours)
            case OutputReady():
                self._delivery.rendered(event)
            case JobText() | JobReplied():
                self._chats.deliver(event)
            case JobStarted():
                if not self._chats.deliver(event):
                    self._delivery.started(event)
            case JobFailed():
                if not self._chats.deliver(event):
                    self._delivery.failed(event)
            case JobCanceled():
                if not self._chats.deliver(event):
                    self._delivery.canceled(event)
            case PeaksLearned() | VerdictsReached():
                self._learned(event)
            case JobReturned() | RanOutOfMemory():
                pass  # the fleet's own; what is only counted
            case _:
                assert_never(event)
