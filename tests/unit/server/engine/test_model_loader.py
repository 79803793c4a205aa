"""Why a load failed, and what memory an eviction must give back: it has leaked only where a driver reports it."""

from __future__ import annotations

import queue
from collections.abc import Callable

import pytest

from models.errors import LoadFailed
from server.engine import model_loader
from server.engine.model_loader import Device, ModelLoader
from server.engine_status import LoadError, MemoryHolder
from server.memory.ledger import Ledger, Reading
from server.scheduling.actions import ModelFacts
from server.scheduling.scheduler import Scheduler
from tests.support.lanes.fake_lane import FakeLane, is_memory_error


class Panic(BaseException):
    """As compiled libraries raise: not an `Exception`."""


def raising(error: BaseException, cause: BaseException | None = None) -> Callable[[str], FakeLane]:
    def load(model: str) -> FakeLane:
        raise error from cause

    return load


@pytest.mark.parametrize(
    ("error", "cause", "expected"),
    [
        (ValueError("of a library"), None, LoadError("The model m failed to load.", "ValueError: of a library")),
        (Panic("of Rust"), None, LoadError("The model m failed to load.", "Panic: of Rust")),
        (LoadFailed("m is odd.", detail="/x is odd"), None, LoadError("m is odd.", "/x is odd", retryable=False)),
        (LoadFailed("m is odd."), OSError("/x"), LoadError("m is odd.", "OSError: /x", retryable=False)),
        (
            MemoryError(),
            None,
            LoadError("The model m failed to load: the device has too little free memory.", "MemoryError: "),
        ),
    ],
)
def test_a_failed_load_keeps_the_librarys_own_error_apart_from_what_clients_read(
    error: BaseException, cause: BaseException | None, expected: LoadError
) -> None:
    scheduler = Scheduler(Ledger(name="d", capacity_bytes=500), lambda name: ModelFacts(name, "image", 100, 4, 1000.0))
    device = Device(
        load=raising(error, cause),
        read_memory=lambda: None,
        is_fatal=lambda error: False,
        is_out_of_memory=is_memory_error,
        die=lambda: None,
        warm_up=lambda: None,
    )
    loader = ModelLoader(scheduler, device, {}, queue.SimpleQueue(), lambda: 0.0)

    assert loader.load("m") == expected
    assert scheduler.cooldowns["m"].error == expected


@pytest.mark.parametrize(
    ("exact", "holders"),
    [
        pytest.param(True, (MemoryHolder("m", "leaked", 100),), id="a driver's figure: the memory has leaked"),
        pytest.param(False, (), id="a CPU device: the C library keeps freed memory"),
    ],
)
def test_memory_that_an_evicted_model_does_not_return_has_leaked_only_on_a_device_with_a_driver(
    monkeypatch: pytest.MonkeyPatch, exact: bool, holders: tuple[MemoryHolder, ...]
) -> None:
    monkeypatch.setattr(model_loader, "RELEASE_WAIT_S", 0.0)
    scheduler = Scheduler(Ledger(name="d", capacity_bytes=500), lambda name: ModelFacts(name, "image", 100, 4, 1000.0))
    device = Device(
        load=lambda model: FakeLane(),
        read_memory=lambda: Reading(free_bytes=400, ours_bytes=100, exact=exact),  # before and after the eviction
        is_fatal=lambda error: False,
        is_out_of_memory=is_memory_error,
        die=lambda: None,
        warm_up=lambda: None,
    )
    loader = ModelLoader(scheduler, device, {}, queue.SimpleQueue(), lambda: 0.0)
    loader.load("m")
    loader.evict("m")

    assert scheduler.ledger.status().holders == holders
