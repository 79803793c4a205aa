"""After an eviction, memory that did not come back counts as leaked only where a driver reports it exactly."""

from __future__ import annotations

import queue

import pytest

from server.engine import model_loader
from server.engine.model_loader import Device, ModelLoader
from server.memory.ledger import Ledger, Reading
from server.protocol import MemoryHolder
from server.scheduling.actions import ModelFacts
from server.scheduling.scheduler import Scheduler
from tests.support.lanes.fake_lane import FakeLane


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
        die=lambda: None,
        warm_up=lambda: None,
    )
    loader = ModelLoader(scheduler, device, {}, queue.SimpleQueue(), lambda: 0.0)
    loader.load("m")
    loader.evict("m")

    assert scheduler.ledger.status().holders == holders
