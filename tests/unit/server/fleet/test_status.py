"""The merged status of several devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.engine_status import (
    DeviceStatus,
    EngineStatus,
    LoadError,
    MemoryHolder,
    ModelStatus,
    QueueEntry,
    RunningEntry,
)
from server.fleet.status import FleetStatus


def status(device: str, *waiting: str, free: int = 5, models=(), running=()) -> EngineStatus:
    held = (MemoryHolder("m", "weights", 3),)
    queue = tuple(QueueEntry(name, "turn", 0, 9.0) for name in waiting)
    return EngineStatus(queue, tuple(running), tuple(models), DeviceStatus(device, 10, 3, 0, 1, free, held))


@pytest.fixture
def clock() -> list[float]:
    return [50.0]


@pytest.fixture
def statuses(clock: list[float]) -> FleetStatus:
    return FleetStatus(lambda: clock[0])


def test_positions_count_the_queues_of_all_devices_in_parallel(statuses: FleetStatus) -> None:
    statuses.update(status("cpu 0", "a", "b", "c"))
    statuses.update(status("cpu 1", "x", "y", free=7))

    queued = [statuses.queued_job(name) for name in "axbyc"]
    assert [job.position for job in queued if job] == [0, 1, 2, 3, 4]
    assert [job.free_bytes for job in queued if job] == [5, 7, 5, 7, 5]
    assert (statuses.n_queued, statuses.most_free_bytes) == (5, 7)


def test_a_status_replaces_only_the_previous_one_of_its_device(statuses: FleetStatus) -> None:
    statuses.update(status("cpu 1", "x"))
    statuses.update(status("cpu 0", "a"))
    statuses.update(status("cpu 0"))

    assert statuses.queued_job("a") is None
    assert statuses.queued_job("x") is not None
    assert [device.name for device in statuses.devices()] == ["cpu 0", "cpu 1"]
    for device in statuses.devices():
        assert sum(holder.n_bytes for holder in device.holders) == device.used_bytes


def test_etas_count_down_from_each_devices_own_report(statuses: FleetStatus, clock: list[float]) -> None:
    statuses.update(status("cpu 0", running=[RunningEntry("r", 8.0)]))
    clock[0] += 3
    statuses.update(status("cpu 1", "w"))

    assert (statuses.eta_s("r"), statuses.eta_s("w"), statuses.eta_s("nobody")) == (5.0, 9.0, None)


def test_copies_of_a_model_are_one_model_with_the_sum_of_their_bytes(statuses: FleetStatus, clock: list[float]) -> None:
    def copy(**values) -> ModelStatus:
        return replace(ModelStatus("m", "resident", 3, 1, "on", 0, 10.0), **values)

    statuses.update(status("cpu 0", models=[copy(components=(("vae", 1), ("unet", 2)))]))
    clock[0] += 4
    statuses.update(status("cpu 1", models=[copy(components=(("unet", 2),))]))
    (model,) = statuses.models()

    assert (model.status.weight_bytes, model.status.cache_bytes) == (6, 2)
    assert dict(model.status.components) == {"vae": 1, "unet": 4}
    assert model.devices == ("cpu 0", "cpu 1")
    assert model.idle_unload_in_s == 10.0  # when the last copy is evicted
    statuses.update(status("cpu 1", models=[copy(running=1, idle_unload_in_s=None)]))
    assert statuses.models()[0].idle_unload_in_s is None


def test_a_model_that_failed_on_one_device_and_is_resident_on_another_is_resident(
    statuses: FleetStatus, clock: list[float]
) -> None:
    failed = ModelStatus("m", "failed", 0, 0, "unproven", 0, None, retry_in_s=20.0)
    statuses.update(status("cpu 0", models=[failed]))
    clock[0] += 5
    assert (statuses.models()[0].status.state, statuses.models()[0].retry_in_s) == ("failed", 15.0)

    statuses.update(status("cpu 1", models=[ModelStatus("m", "resident", 3, 0, "on", 0, None)]))
    assert (statuses.models()[0].status.state, statuses.models()[0].retry_in_s) == ("resident", None)


def test_a_cooldown_is_over_when_its_time_has_passed_though_an_idle_engine_reports_nothing_new(
    statuses: FleetStatus, clock: list[float]
) -> None:
    error = LoadError("m failed to load.", "OSError: no such file")
    failed = ModelStatus("m", "failed", 0, 0, "unproven", 0, None, retry_in_s=10.0, load_error=error)
    statuses.update(status("cpu 0", models=[failed]))
    clock[0] += 9.5
    assert (statuses.models()[0].status.state, statuses.models()[0].retry_in_s) == ("failed", 0.5)

    clock[0] += 0.5
    (model,) = statuses.models()
    assert (model.status.state, model.retry_in_s, model.status.load_error) == ("available", None, error)


def test_the_devices_of_a_model_are_sorted_by_name_whichever_reported_first(statuses: FleetStatus) -> None:
    model = ModelStatus("m", "resident", 3, 0, "on", 0, None)
    for device in ("cpu 1", "cpu 0"):
        statuses.update(status(device, models=[model]))

    assert [snapshot.devices for snapshot in statuses.models()] == [("cpu 0", "cpu 1")]
