"""What an engine is told of its device, with a torch that we play."""

from __future__ import annotations

import os
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

import pipelines
from models.loading.measured import Measured
from server.engine.model_loader import Device
from server.process import build_engines
from server.process.hardware import Machine
from server.process.supervisor import UNUSABLE

GIB = 2**30


class FakeTorch:
    """`pipelines.device` of a machine with these GPUs, in torch's order."""

    HOST_MARGIN_BYTES = GIB

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *uuids: str) -> None:
        self._uuids = uuids
        self.environment: dict[str, str] = {}  # as it was when torch was asked for its GPUs
        monkeypatch.setattr(pipelines, "device", self, raising=False)
        loading = SimpleNamespace(quiet_libraries=lambda: None)
        monkeypatch.setitem(sys.modules, "models.loading.load", loading)

    def uuids(self) -> list[str]:
        self.environment = dict(os.environ)
        return list(self._uuids)

    def memory(self, name: str) -> tuple[int, int]:
        return {"cuda:0": 10, "cuda:1": 20}[name] * GIB, 80 * GIB

    def held_by_us(self, name: str) -> int:
        return {"cuda:0": 1, "cuda:1": 2}[name] * GIB

    def keep_what_is_imported(self) -> None:
        pass

    def use_threads(self, count: int) -> None:
        pass


class FakeHost:
    def available_bytes(self) -> int:
        return 5 * GIB

    def reading(self) -> str:
        return "the host's"


def device_of(machine: Machine) -> Device:
    catalogue: Any = None
    host: Any = FakeHost()
    return build_engines._device(
        machine, host, catalogue, lambda _: 0, lambda _: False, threading.Lock(), 1, lambda _: {}, Measured(None)
    )


def test_a_gpu_that_torch_numbers_otherwise_is_measured_and_not_its_neighbor(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTorch(monkeypatch, "aa", "bb")
    device = device_of(Machine("cuda:0", "H100", 80 * GIB, uuids=("GPU-bb",)))
    device.warm_up()
    reading = device.read_memory()

    assert reading is not None
    assert (reading.free_bytes, reading.ours_bytes) == (20 * GIB, 2 * GIB)
    assert reading.exact


def test_host_memory_for_parked_weights_is_what_is_available_now_less_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTorch(monkeypatch, "aa")
    reading = device_of(Machine("cuda:0", "H100", 80 * GIB, uuids=("GPU-aa",))).read_memory()

    assert reading is not None
    assert reading.host_free_bytes == 4 * GIB


def test_a_gpu_that_torch_does_not_see_ends_the_process_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTorch(monkeypatch, "aa", "cc")
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit):
        device_of(Machine("cuda:0", "H100", 80 * GIB, uuids=("GPU-bb",))).warm_up()
    assert codes == [UNUSABLE]


@pytest.mark.parametrize(("setting", "expected"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_cuda_counts_gpus_as_the_driver_does_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, expected: str
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", setting or "")
    if setting is None:
        monkeypatch.delenv("CUDA_DEVICE_ORDER")
    torch = FakeTorch(monkeypatch, "aa")
    device_of(Machine("cuda:0", "H100", 80 * GIB, uuids=("GPU-aa",))).warm_up()

    assert torch.environment["CUDA_DEVICE_ORDER"] == expected


def test_a_cpu_device_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTorch(monkeypatch)
    device = device_of(Machine("cpu", "cpu", GIB))
    device.warm_up()

    assert device.read_memory() == FakeHost().reading()
