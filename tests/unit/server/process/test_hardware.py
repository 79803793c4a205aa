"""Which devices the setting means, on a machine whose driver we play."""

from __future__ import annotations

import pytest

from server.process import hardware
from server.process.hardware import NoSuchDevice, find_machines

GIB = 2**30
TWO_ALIKE = {"cuda:0": ("H100", 80 * GIB), "cuda:1": ("H100", 80 * GIB)}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    monkeypatch.setattr(hardware, "_gpus", lambda: found)  # the driver's own answer
    return found


def test_auto_is_every_gpu_and_the_cpu_where_there_is_none(gpus: dict) -> None:
    assert [it.device for it in find_machines("auto", GIB)] == ["cpu"]
    gpus.update(TWO_ALIKE)
    found = find_machines("auto", None)

    assert [it.device for it in found] == ["cuda:0", "cuda:1"]
    assert [it.name for it in found] == ["H100 0", "H100 1"]
    assert {it.memory_bytes for it in found} == {80 * GIB}


def test_two_cpu_devices_share_the_budget_and_have_names_of_their_own(gpus: dict) -> None:
    found = find_machines("cpu,cpu", 3 * GIB)

    assert [(it.device, it.name, it.memory_bytes) for it in found] == [
        ("cpu", f"cpu {i}", 3 * GIB // 2) for i in (0, 1)
    ]
    assert [it.name for it in find_machines("cpu", GIB)] == ["cpu"]


def test_gpus_are_chosen_by_number_and_the_budget_is_of_each(gpus: dict) -> None:
    gpus.update(TWO_ALIKE)
    assert [(it.device, it.memory_bytes) for it in find_machines("cuda:1", 8 * GIB)] == [("cuda:1", 8 * GIB)]
    assert [it.device for it in find_machines("cuda:1, cuda:0", None)] == ["cuda:1", "cuda:0"]


def test_gpus_share_the_host_memory_that_weights_may_wait_in(gpus: dict) -> None:
    gpus.update(TWO_ALIKE)

    assert [it.parking_bytes for it in find_machines("auto", None, 64 * GIB)] == [32 * GIB, 32 * GIB]
    assert [it.parking_bytes for it in find_machines("auto", None, 0)] == [0, 0]
    assert all(it.parking_bytes > 0 for it in find_machines("auto", None))
    assert [it.parking_bytes for it in find_machines("cpu", None, 64 * GIB)] == [0]


@pytest.mark.parametrize("said", ["cuda:2", "cuda:0,cuda:0", "cpu,cuda:0", "gpu", "cuda,"])
def test_a_device_that_is_not_there_or_named_twice_or_mixed_is_refused_with_the_setting(gpus: dict, said: str) -> None:
    gpus.update(TWO_ALIKE)
    with pytest.raises(NoSuchDevice, match=f"device={said}: "):
        find_machines(said, None)
