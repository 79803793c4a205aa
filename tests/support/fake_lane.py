"""A lane that computes nothing: each request takes so many steps, then ends as told. For the engine's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipelines.interface import (
    Canceled,
    ChatRequest,
    DiffusionRequest,
    Failed,
    Merging,
    NextStep,
    Note,
    OutOfMemory,
    Progressed,
    Rendered,
    Replied,
    Request,
    StepCost,
    Update,
    never_yield,
)


@dataclass
class FakeLane:
    """Admitted requests advance one step per `step`, merged up to `max_rows`, oldest first.

    `fails` maps request ids to the failure they end with; more than `room` rows at once run out of memory, and go on as that many;
    a forward of `blocks` > 1 asks `should_yield` between them.
    """

    kind: Literal["image", "video", "chat"] = "image"
    weights: dict[str, int] = field(default_factory=lambda: {"model": 100})  # on the device and parked
    cache_bytes: int = 0
    merging: Merging = "on"
    reply_steps: int = 3
    step_s: float = 1.0  # what a step of one row is said to have taken
    peak_bytes: int | None = None  # of one row
    room: int | None = None
    blocks: int = 1
    fails: dict[str, Failed] = field(default_factory=dict)
    explodes: BaseException | None = None  # raised by the next step, as a poisoned device would
    step_log: list[tuple[str, ...]] = field(default_factory=list)
    closed: bool = False
    verdicts: dict[str, bool] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    mid_forward: bool = False
    _running: dict[str, tuple[Request, int]] = field(default_factory=dict)
    _canceled: list[str] = field(default_factory=list)
    _costs: list[Note] = field(default_factory=list)
    _parked: set[str] = field(default_factory=set)
    _blocks_done: int = 0

    @property
    def components(self) -> Mapping[str, int]:
        return {name: n for name, n in self.weights.items() if name not in self._parked}

    @property
    def parked(self) -> Mapping[str, int]:
        return {name: self.weights[name] for name in sorted(self._parked)}

    @property
    def weight_bytes(self) -> int:
        return sum(self.components.values())

    def park(self, names: Sequence[str]) -> int:
        going = self.components.keys() & set(names)
        self._parked |= going
        return sum(self.weights[name] for name in going)

    def unpark(self, names: Sequence[str]) -> int:
        coming = self._parked & set(names)
        self._parked -= coming
        return sum(self.weights[name] for name in coming)

    def resize_cache(self, n_bytes: int) -> int:
        self.cache_bytes = n_bytes if self.kind == "chat" else 0
        return self.cache_bytes

    def admit(self, request: Request) -> None:
        self._running[request.id] = (request, 0)

    def cancel(self, request_id: str) -> None:
        if self._running.pop(request_id, None) is not None:
            self._canceled.append(request_id)

    def has_work(self) -> bool:
        return bool(self._running or self._canceled)

    def next_step(self) -> NextStep | None:
        if not self._running:
            return None
        component = next(reversed(self.weights))  # the last one is what steps
        if self.kind == "chat":
            return NextStep(component, "forward", "decode", "decode", 1, len(self._running), tuple(self._running))
        return NextStep(component, "forward", "denoising", "8x8x1", 64, len(self._running), tuple(self._running))

    def step(self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield) -> Sequence[Update]:
        if self.explodes is not None:
            raise self.explodes
        updates: list[Update] = [Canceled(request_id) for request_id in self._canceled]
        self._canceled.clear()
        next_step = self.next_step()
        if next_step is None or max_rows == 0:
            return updates
        assert next_step.component not in self._parked, "a parked component cannot run"
        self.mid_forward = False
        while self._blocks_done < self.blocks - 1:
            self._blocks_done += 1
            if should_yield():
                self.mid_forward = True
                return updates
        self._blocks_done = 0
        rows = min(next_step.rows, max_rows or next_step.rows)
        if self.room is not None and rows > self.room:
            self._note_out_of_memory(next_step, rows)
            rows = self.room
        together = next_step.request_ids[:rows]
        self.step_log.append(together)
        self._costs.append(
            StepCost(
                shape=next_step.shape,
                rows=rows,
                seconds=self.step_s * rows,
                request_ids=together,
                stage=next_step.stage,
                component=next_step.component,
                units=next_step.units,
                peak_bytes=None if self.peak_bytes is None else self.peak_bytes * rows,
            )
        )
        for request_id in together:
            updates += self._advance(request_id, rows)
        return updates

    def _advance(self, request_id: str, together: int) -> Sequence[Update]:
        request, done = self._running[request_id]
        total = request.steps if isinstance(request, DiffusionRequest) else self.reply_steps
        self._running[request_id] = (request, done + 1)
        told: list[Update] = [Progressed(request_id, "denoising", done + 1, total)]
        if request_id in self.fails:
            told.append(self.fails[request_id])
        elif done + 1 == total:
            told.append(self._end(request, together))
        if len(told) > 1:
            del self._running[request_id]
        return told

    def _note_out_of_memory(self, next_step: NextStep, rows: int) -> None:
        ids = next_step.request_ids[:rows]
        self._costs.append(
            OutOfMemory(next_step.component, next_step.entry, next_step.shape, next_step.units, rows, ids)
        )

    def take_costs(self) -> Sequence[Note]:
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
