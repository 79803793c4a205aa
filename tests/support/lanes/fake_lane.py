"""A lane that computes nothing, for tests of the engine: each request takes so many steps and then ends.

`tests/unit/contracts/test_lane_contract.py` holds it to what the real lanes do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from pipelines.chat_interface import ChatRequest
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import (
    Canceled,
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
    TextDelta,
    Update,
    never_yield,
)


def is_memory_error(error: BaseException) -> bool:
    """What running out of memory looks like on a device without torch."""
    return isinstance(error, MemoryError)


@dataclass
class FakeLane:
    """Admitted requests advance one step per `step`, merged up to `max_rows`, oldest first."""

    kind: Literal["image", "video", "chat"] = "image"
    weights: dict[str, int] = field(default_factory=lambda: {"model": 100})  # bytes by component; the last one steps
    cache_bytes: int = 0
    merging: Merging = "on"
    reply_steps: int = 3  # steps of each chat
    step_s: float = 1.0  # reported seconds of a step of one row
    peak_bytes: int | None = None  # reported activation memory of one row; None: not measured
    bytes_per_chat: int = 0  # of the cache, below which it cannot shrink while the chat runs
    room: int | None = None  # more rows at once run out of memory, and go on as that many
    blocks: int = 1  # of each forward; `should_yield` is asked between them
    fails: dict[str, Failed] = field(default_factory=dict)  # request id → the failure it ends with
    explodes: BaseException | None = None  # raised by the next step, as a poisoned device would
    step_log: list[tuple[str, ...]] = field(default_factory=list)  # the requests of each finished forward
    closed: bool = False
    waits: bool = False  # no step does anything
    verdicts: dict[str, bool] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    _running: dict[str, tuple[Request, int]] = field(default_factory=dict)  # with the steps done
    _to_cancel: list[str] = field(default_factory=list)
    _costs: list[Note] = field(default_factory=list)
    _parked: set[str] = field(default_factory=set)
    _paused: NextStep | None = None  # the forward that gave way
    _blocks_done: int = 0  # of that forward

    @property
    def components(self) -> Mapping[str, int]:
        return {name: n for name, n in self._weights.items() if name not in self._parked}

    @property
    def parked(self) -> Mapping[str, int]:
        return {name: n for name, n in self._weights.items() if name in self._parked}

    @property
    def weight_bytes(self) -> int:
        return sum(self.components.values())

    @property
    def mid_forward(self) -> bool:
        return self._paused is not None and bool(self._wanted(self._paused.request_ids))

    def park(self, names: Sequence[str]) -> int:
        if self.kind == "chat" and self._running:
            return 0
        in_use = {self._paused.component} if self._paused is not None else set()
        going = self.components.keys() & set(names) - in_use
        self._parked |= going
        return sum(self.weights[name] for name in going)

    def unpark(self, names: Sequence[str]) -> int:
        coming = self._parked & set(names)
        self._parked -= coming
        return sum(self.weights[name] for name in coming)

    def drop_adapters(self, components: Sequence[str]) -> None:
        for component in components:
            self.weights.pop(component, None)

    def resize_cache(self, n_bytes: int) -> int:
        self.cache_bytes = max(n_bytes, self.bytes_per_chat * len(self._running)) if self.kind == "chat" else 0
        return self.cache_bytes

    def admit(self, request: Request) -> None:
        self._running[request.id] = (request, 0)

    def cancel(self, request_id: str) -> None:
        if request_id in self._running and request_id not in self._to_cancel:
            self._to_cancel.append(request_id)

    def has_work(self) -> bool:
        return bool(self._running)

    def next_step(self) -> NextStep | None:
        if self._paused is not None and self.mid_forward:
            wanted = self._wanted(self._paused.request_ids)
            return replace(self._paused, rows=len(wanted), request_ids=wanted)
        waiting = self._wanted(self._running)
        if not waiting or self.waits:
            return None
        component = next(reversed(self.weights))
        if self.kind == "chat":
            return NextStep(component, "forward", "decode", "decode", 1, len(waiting), waiting)
        return NextStep(component, "forward", "denoising", "8x8x1", 64, len(waiting), waiting)

    def step(
        self, max_rows: int | None = None, should_yield: Callable[[], bool] = never_yield, in_tiles: bool = False
    ) -> Sequence[Update]:
        if self.explodes is not None:
            raise self.explodes
        updates: list[Update] = [*self._end_canceled()]
        next_step = self.next_step()
        if next_step is None or max_rows == 0:
            return updates
        assert next_step.component not in self._parked, "a parked component cannot run"
        if self._paused is None:
            self._paused = _narrowed(next_step, max_rows or next_step.rows)
        while self._blocks_done < self._blocks - 1:
            self._blocks_done += 1
            if should_yield():
                return updates
        forward = self._within_memory(self._paused)
        self._paused, self._blocks_done = None, 0
        self.step_log.append(forward.request_ids)
        self._costs.append(self._cost(forward))
        for request_id in self._wanted(forward.request_ids):
            updates += self._advance(request_id, forward.rows)
        return updates

    def take_costs(self) -> Sequence[Note]:
        costs, self._costs = self._costs, []
        return costs

    def close(self) -> None:
        assert not self._running, "a lane is closed when nothing runs on it"
        self.closed = True
        self.cache_bytes = 0
        self._parked.clear()

    @property
    def _blocks(self) -> int:
        return 1 if self.kind == "chat" else self.blocks  # a chat's forwards are short: none gives way

    @property
    def _weights(self) -> Mapping[str, int]:
        return {} if self.closed else self.weights

    def _wanted(self, request_ids: Sequence[str] | Mapping[str, object]) -> tuple[str, ...]:
        """Those that still run and are not canceled."""
        return tuple(name for name in request_ids if name in self._running and name not in self._to_cancel)

    def _end_canceled(self) -> Sequence[Update]:
        canceled, self._to_cancel = self._to_cancel, []
        for request_id in canceled:
            del self._running[request_id]
        if self._paused is not None and not self.mid_forward:
            self._paused, self._blocks_done = None, 0
        return [Canceled(request_id) for request_id in canceled]

    def _within_memory(self, step: NextStep) -> NextStep:
        if self.room is None or step.rows <= self.room:
            return step
        self._costs.append(OutOfMemory(step.component, step.entry, step.shape, step.units, step.rows, step.request_ids))
        return _narrowed(step, self.room)

    def _cost(self, step: NextStep) -> StepCost:
        return StepCost(
            shape=step.shape,
            rows=step.rows,
            seconds=self.step_s * step.rows,
            request_ids=step.request_ids,
            stage=step.stage,
            component=step.component,
            units=step.units,
            peak_bytes=None if self.peak_bytes is None else self.peak_bytes * step.rows,
        )

    def _advance(self, request_id: str, batch_size: int) -> Sequence[Update]:
        request, done = self._running[request_id]
        done += 1
        total = request.steps if isinstance(request, DiffusionRequest) else self.reply_steps
        self._running[request_id] = (request, done)
        progress = _progress(request, done, total)
        end = self.fails.get(request_id) or (_end(request, total, batch_size) if done == total else None)
        if end is None:
            return [progress]
        del self._running[request_id]
        return [progress, end]


def _narrowed(step: NextStep, most_rows: int) -> NextStep:
    request_ids = step.request_ids[:most_rows]
    return replace(step, rows=len(request_ids), request_ids=request_ids)


def _progress(request: Request, done: int, total: int) -> Update:
    if isinstance(request, ChatRequest):
        return TextDelta(request.id, f"{done} ")
    return Progressed(request.id, "denoising", done, total)


def _end(request: Request, total: int, batch_size: int) -> Update:
    if isinstance(request, ChatRequest):
        return Replied(request.id, "".join(f"{n + 1} " for n in range(total)), 3, total, "stop")
    frames = np.zeros((request.num_frames or 1, 8, 8, 3), dtype=np.float32)
    return Rendered(request.id, frames, batch_size, "FakeScheduler")
