"""Models come onto the device and leave it, and the ledger is told what that really changed. Device thread only.

What the carrier is told to do of this comes here; what becomes of the jobs is its own business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from models.errors import ModelsError
from pipelines.interface import Lane
from server.memory.ledger import DoesNotFit, Reading
from server.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)

RELEASE_WAIT_S = 1.0  # an allocator gives memory back a moment after it was let go; longer: it leaked
RELEASED = 0.95  # of what was booked, at least this much must come back: allocators round


def _is_memory_error(error: BaseException) -> bool:
    return isinstance(error, MemoryError)


@dataclass(frozen=True, slots=True)
class Device:
    """What the engine needs of the machine, injected so that the server imports no torch."""

    load: Callable[[str], Lane]  # model name → lane; raises on failure
    read_memory: Callable[[], Reading | None]
    is_fatal: Callable[[BaseException], bool]
    die: Callable[[], None]  # ends the process with POISONED, now
    warm_up: Callable[[], None]  # slow imports, done on the device thread before the first job
    is_out_of_memory: Callable[[BaseException], bool] = _is_memory_error
    read: Callable[[str], None] = lambda model: (
        None
    )  # its files into memory, so that `load` is short; on a thread of its own
    working: Callable[[], AbstractContextManager[None]] = nullcontext  # around what this thread does with the machine
    others_wait: Callable[[], bool] = lambda: False  # whether another device's thread waits for that to end


class ModelLoader:
    def __init__(
        self,
        scheduler: Scheduler,
        device: Device,
        lanes: dict[str, Lane],
        begin_reading: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        """`lanes`: by model, those on the device; they come and go here. `begin_reading`: see `Executor`."""
        self._scheduler = scheduler
        self._device = device
        self._lanes = lanes
        self._begin_reading = begin_reading
        self._clock = clock
        self._reading_since = self._read_s = 0.0

    def read(self, model: str) -> None:
        self._scheduler.ledger.book(model, "weights", self._scheduler.residency.bytes_to_load(model))
        self._scheduler.reading(model)
        self._reading_since = self._clock()
        self._begin_reading(model)

    def was_read(self) -> None:
        self._read_s = self._clock() - self._reading_since
        self._scheduler.was_read()

    def load(self, model: str) -> str | None:
        """Why it failed, for the jobs that wait for it; None when it is there, or will be tried again with more room."""
        began, ledger = self._clock(), self._scheduler.ledger
        free = ledger.free_bytes + ledger.held_by(model, "weights")
        lane, ran_out, reason = None, False, f"The model {model} failed to load."
        try:
            if not ledger.held_by(model, "weights"):
                ledger.book(model, "weights", self._scheduler.residency.bytes_to_load(model))
            lane = self._device.load(model)
        except Exception as error:
            if self._device.is_fatal(error):
                raise
            ran_out = self._device.is_out_of_memory(error)
            reason = error.message if isinstance(error, ModelsError) else reason  # theirs may be shown to a client
            logger.exception("model load failed", extra={"model": model})
        ledger.release(model)
        if lane is not None:
            self._arrived(model, lane, began)
            return None
        return None if ran_out and self._scheduler.load_ran_out(model, free) else self._failed(model, reason)

    def _arrived(self, model: str, lane: Lane, began: float) -> None:
        scheduler = self._scheduler
        self._lanes[model] = lane
        seconds = self._clock() - began + self._read_s
        scheduler.loaded(model, self._clock(), seconds, self._read_s)
        self._read_s = 0.0
        scheduler.ledger.correct(model, "kv_cache", lane.cache_bytes)
        for component, (whose, _) in scheduler.residents[model].facts.shareable.items():
            scheduler.ledger.share(model, component, whose)
        scheduler.placed(model, lane.components, lane.parked)
        logger.info("model loaded", extra={"model": model, "bytes": lane.weight_bytes, "ms": round(seconds * 1000)})

    def _failed(self, model: str, reason: str) -> str:
        return self._scheduler.load_failed(model, self._clock(), reason).reason

    def evict(self, model: str) -> None:
        before, began = self._device.read_memory(), self._clock()
        self._lanes.pop(model).close()
        freed = self._scheduler.ledger.release(model)
        if before is not None:
            self._verify_release(model, before, freed)
        self._scheduler.evicted(model, self._clock() - began)
        logger.info("model evicted", extra={"model": model, "bytes": freed})

    def _verify_release(self, model: str, before: Reading, freed: int) -> None:
        deadline = self._clock() + RELEASE_WAIT_S
        while (now := self._device.read_memory()) is not None:
            missing = freed - max(0, before.ours_bytes - now.ours_bytes)
            if missing <= (1 - RELEASED) * freed:
                return
            if self._clock() >= deadline:
                logger.error("memory leaked", extra={"model": model, "bytes": missing})
                self._scheduler.ledger.leaked(model, missing)
                return
            time.sleep(0.02)

    def park(self, model: str, components: tuple[str, ...]) -> None:
        lane, resident = self._lanes[model], self._scheduler.residents[model]
        freed = lane.park(components)
        resident.parkable = freed > 0
        if not lane.components and lane.cache_bytes:
            self._scheduler.cache_resized(model, self._clock(), 0, lane.resize_cache(0))
        self._scheduler.placed(model, lane.components, lane.parked)
        logger.info("weights parked", extra={"model": model, "bytes": freed})

    def unpark(self, model: str, components: tuple[str, ...]) -> bool:
        """False when its weights do not fit back."""
        lane, scheduler = self._lanes[model], self._scheduler
        began, was_away, fits = self._clock(), not lane.components, True
        try:
            for name in components:
                scheduler.ledger.book(model, "weights", lane.parked[name], name)
            lane.unpark(components)
        except Exception as error:
            if not isinstance(error, DoesNotFit) and not self._device.is_out_of_memory(error):
                raise
            logger.warning("weights do not fit back", extra={"model": model})
            fits = False
        cache = scheduler.residents[model].facts.cache_bytes - lane.cache_bytes
        if was_away and 0 < cache <= scheduler.ledger.free_bytes:
            scheduler.cache_resized(model, self._clock(), 0, lane.resize_cache(lane.cache_bytes + cache))
        scheduler.placed(model, lane.components, lane.parked)
        if was_away:
            scheduler.came_back(model, self._clock(), self._clock() - began)
        return fits
