"""A lane that computes nothing: each request takes so many steps, then ends as told. For the engine's tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipelines.interface import (
    Canceled,
    ChatRequest,
    DiffusionRequest,
    Failed,
    Merging,
    Progressed,
    Rendered,
    Replied,
    Request,
    StepCost,
    Update,
)


@dataclass
class FakeLane:
    """All admitted requests advance one step per `step`, merged. `fails` maps request ids to the failure they end with."""

    kind: Literal["image", "video", "chat"] = "image"
    weight_bytes: int = 100
    cache_bytes: int = 0
    merging: Merging = "on"
    reply_steps: int = 3
    fails: dict[str, Failed] = field(default_factory=dict)
    explodes: BaseException | None = None  # raised by the next step, as a poisoned device would
    step_log: list[tuple[str, ...]] = field(default_factory=list)
    closed: bool = False
    _running: dict[str, tuple[Request, int]] = field(default_factory=dict)
    _canceled: list[str] = field(default_factory=list)
    _costs: list[StepCost] = field(default_factory=list)

    def admit(self, request: Request) -> None:
        self._running[request.id] = (request, 0)

    def cancel(self, request_id: str) -> None:
        if self._running.pop(request_id, None) is not None:
            self._canceled.append(request_id)

    def has_work(self) -> bool:
        return bool(self._running or self._canceled)

    def step(self) -> Sequence[Update]:
        if self.explodes is not None:
            raise self.explodes
        updates: list[Update] = [Canceled(request_id) for request_id in self._canceled]
        self._canceled.clear()
        together = tuple(self._running)
        self.step_log.append(together)
        for request_id, (request, done) in list(self._running.items()):
            total = request.steps if isinstance(request, DiffusionRequest) else self.reply_steps
            self._running[request_id] = (request, done + 1)
            updates.append(Progressed(request_id, "denoising", done + 1, total))
            self._costs.append(StepCost("denoising 8x8x1", len(together), 1.0 * len(together), (request_id,)))
            if request_id in self.fails:
                del self._running[request_id]
                updates.append(self.fails[request_id])
            elif done + 1 == total:
                del self._running[request_id]
                updates.append(self._end(request, len(together)))
        return updates

    def take_costs(self) -> Sequence[StepCost]:
        costs, self._costs = self._costs, []
        return costs

    def close(self) -> None:
        assert not self._running
        self.closed = True

    def _end(self, request: Request, together: int) -> Update:
        if isinstance(request, ChatRequest):
            return Replied(request.id, "hello", 3, self.reply_steps, "stop")
        frames = np.zeros((request.num_frames or 1, 8, 8, 3), dtype=np.float32)
        return Rendered(request.id, frames, together, "FakeScheduler")
