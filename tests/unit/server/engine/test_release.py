"""Whether an evicted model's memory came back is asked only where the answer means something."""

from __future__ import annotations

import queue

import pytest

from server.engine import model_loader
from server.engine.model_loader import Device, ModelLoader
from server.memory.ledger import Ledger, Reading
from server.protocol import MemoryHolder
from server.scheduling.actions import ModelFacts
from server.scheduling.scheduler import Scheduler
from tests.support.fake_lane import FakeLane


@pytest.mark.parametrize(
    ("exact", "holders"),
    [
        pytest.param(True, (MemoryHolder("m", "leaked", 100),), id="the driver did not get it back"),
        pytest.param(False, (), id="the C library keeps it for the next model"),
    ],
)
def test_memory_that_stays_with_the_process_has_leaked_only_on_a_device_with_a_driver(
    monkeypatch: pytest.MonkeyPatch, exact: bool, holders: tuple[MemoryHolder, ...]
) -> None:
    monkeypatch.setattr(model_loader, "RELEASE_WAIT_S", 0.0)
    scheduler = Scheduler(Ledger(name="d", capacity_bytes=500), lambda name: ModelFacts(name, "image", 100, 4, 1000.0))
    device = Device(
        load=lambda model: FakeLane(),
        read_memory=lambda: Reading(free_bytes=400, ours_bytes=100, exact=exact),  # before and after
        is_fatal=lambda error: False,
        die=lambda: None,
        warm_up=lambda: None,
    )
    loader = ModelLoader(scheduler, device, {}, queue.SimpleQueue(), lambda: 0.0)
    loader.load("m")
    loader.evict("m")

    assert scheduler.ledger.status().holders == holders
