"""Loads, parks, unparks and evicts models, and books in the ledger what each of these really changed.

Device thread only. What becomes of the models' jobs is left to the executor.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from models.errors import ModelsError
from pipelines.fault_points import reach
from pipelines.interface import Lane
from server.engine_status import LoadError
from server.memory.ledger import DoesNotFit, Reading
from server.protocol import FilesRead, Message
from server.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)

RELEASE_WAIT_S = 1.0  # an allocator returns memory with a delay; what is missing after this time has leaked
RELEASED_SHARE = 0.95  # share of the booked bytes that must come back; allocators round


def _start_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="reader", daemon=True).start()


@dataclass(frozen=True, slots=True)
class Device:
    """The functions that the engine uses the device with, injected so that the server imports no torch."""

    load: Callable[[str], Lane]  # model name → lane; raises on failure
    read_memory: Callable[[], Reading | None]
    is_fatal: Callable[[BaseException], bool]
    is_out_of_memory: Callable[[BaseException], bool]
    die: Callable[[], None]  # ends the process at once; the supervisor starts a new one
    warm_up: Callable[[], None]  # does slow imports, on the device thread, before the first job
    read: Callable[[str], None] = lambda model: None  # reads the files into the page cache, so that `load` is short
    in_background: Callable[[Callable[[], None]], None] = _start_thread  # runs `read` beside the device thread
    working: Callable[[], AbstractContextManager[None]] = nullcontext  # held during each action on the device
    others_wait: Callable[[], bool] = lambda: False  # whether another device's thread waits to enter `working`


def _load_error(model: str, error: BaseException, ran_out_of_memory: bool) -> LoadError:
    """Only the messages of `ModelsError` are written for clients; the text of any other error is for admins."""
    if isinstance(error, ModelsError):
        cause = error.__cause__
        detail = error.detail or ("" if cause is None else f"{type(cause).__name__}: {cause}")
        return LoadError(error.message, detail, retryable=False)
    reason = ": the device has too little free memory" if ran_out_of_memory else ""
    return LoadError(f"The model {model} failed to load{reason}.", f"{type(error).__name__}: {error}")


class ModelLoader:
    def __init__(
        self,
        scheduler: Scheduler,
        device: Device,
        lanes: dict[str, Lane],
        inbox: queue.SimpleQueue[Message],
        clock: Callable[[], float],
    ) -> None:
        """lanes: the lane of each resident model; only this class adds and removes them. inbox: takes `FilesRead`."""
        self._scheduler = scheduler
        self._device = device
        self._lanes = lanes
        self._inbox = inbox
        self._clock = clock

    def read(self, model: str) -> None:
        """Book the model's bytes and start reading its files in the background; a `FilesRead` message ends that."""
        self._scheduler.ledger.book(model, "weights", self._scheduler.residency.bytes_to_load(model))
        self._scheduler.load_started(model)
        self._device.in_background(lambda: self._read(model))

    def _read(self, model: str) -> None:
        """Runs on the reading thread. A file that cannot be read makes the load fail later, with the reason."""
        began = self._clock()
        try:
            self._device.read(model)
        except Exception:
            logger.exception("reading ahead failed", extra={"model": model})
        finally:
            self._inbox.put(FilesRead(model, self._clock() - began))

    def load(self, model: str) -> LoadError | None:
        """Load the model. Returns why that failed.

        None: the model is loaded, or it ran out of memory and will be tried once more with more memory.
        """
        began, ledger = self._clock(), self._scheduler.ledger
        free = ledger.free_bytes + ledger.held_by(model, "weights")
        lane, ran_out, failure = None, False, None
        try:
            if not ledger.held_by(model, "weights"):
                ledger.book(model, "weights", self._scheduler.residency.bytes_to_load(model))
            reach("load", model)
            lane = self._device.load(model)
        except BaseException as error:  # also the panic of a compiled library, which is no Exception
            if self._device.is_fatal(error):
                raise
            ran_out = self._device.is_out_of_memory(error)
            failure = _load_error(model, error, ran_out)
            logger.exception("model load failed", extra={"model": model, "detail": failure.detail})
        ledger.release(model)
        if lane is not None:
            self._loaded(model, lane, began)
            return None
        if ran_out and self._scheduler.ran_out_of_memory(model, free):
            return None
        assert failure is not None, "a load that made no lane has raised"
        return self._failed(model, failure)

    def _loaded(self, model: str, lane: Lane, began: float) -> None:
        scheduler = self._scheduler
        self._lanes[model] = lane
        seconds = self._clock() - began + scheduler.residency.read_s
        scheduler.loaded(model, self._clock(), seconds)
        scheduler.ledger.correct(model, "kv_cache", lane.cache_bytes)
        for component, (weights, _) in scheduler.residents[model].facts.shareable.items():
            scheduler.ledger.share(model, component, weights)
        scheduler.placed(model, lane.components, lane.parked)
        logger.info("model loaded", extra={"model": model, "bytes": lane.weight_bytes, "ms": round(seconds * 1000)})

    def _failed(self, model: str, error: LoadError) -> LoadError:
        return self._scheduler.load_failed(model, self._clock(), error).error

    def drop(self, model: str, lane: Lane | None, request_ids: Sequence[str]) -> None:
        """Let go of a model whose lane has failed in an unknown state. request_ids: what it may still be running."""
        try:
            if lane is not None:
                for request_id in request_ids:
                    lane.cancel(request_id)
                lane.step(max_rows=0)
                lane.close()
        except BaseException as error:
            if self._device.is_fatal(error):
                raise
            logger.warning("model not closed", extra={"model": model, "detail": f"{type(error).__name__}: {error}"})
        self._scheduler.ledger.release(model)
        if model in self._scheduler.residents:
            self._scheduler.evicted(model)

    def evict(self, model: str) -> None:
        before, began = self._device.read_memory(), self._clock()
        self._lanes.pop(model).close()
        freed = self._scheduler.ledger.release(model)
        if before is not None and before.exact:
            self._verify_release(model, before, freed)
        self._scheduler.evicted(model, self._clock() - began)
        logger.info("model evicted", extra={"model": model, "bytes": freed})

    def _verify_release(self, model: str, before: Reading, freed: int) -> None:
        deadline = self._clock() + RELEASE_WAIT_S
        while (now := self._device.read_memory()) is not None:
            missing = freed - max(0, before.ours_bytes - now.ours_bytes)
            if missing <= (1 - RELEASED_SHARE) * freed:
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
        """Bring the components back to the device. False when they do not fit even with all obtainable memory."""
        lane, scheduler = self._lanes[model], self._scheduler
        began, was_parked_whole, fits = self._clock(), not lane.components, True
        free = scheduler.ledger.free_bytes
        try:
            for name in components:
                scheduler.ledger.book(model, "weights", lane.parked[name], name)
            lane.unpark(components)
        except Exception as error:
            if not isinstance(error, DoesNotFit) and not self._device.is_out_of_memory(error):
                raise
            logger.warning("weights do not fit back", extra={"model": model})
            fits = False
        if not fits:
            scheduler.placed(model, lane.components, lane.parked)
            return scheduler.ran_out_of_memory(model, free)
        cache = scheduler.residents[model].facts.cache_bytes - lane.cache_bytes
        if was_parked_whole and 0 < cache <= scheduler.ledger.free_bytes:
            scheduler.cache_resized(model, self._clock(), 0, lane.resize_cache(lane.cache_bytes + cache))
        scheduler.placed(model, lane.components, lane.parked)
        if was_parked_whole:
            scheduler.unparked(model, self._clock(), self._clock() - began)
        return True
