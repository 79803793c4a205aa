"""Which devices the setting `device` means, how much memory each may use, and what torch calls them."""

from __future__ import annotations

from typing import Any

import pytest

from server.process.hardware import Machine, NoSuchDevice, find_machines, torch_device
from server.process.visible_gpus import Gpu, visible_gpus
from tests.support.fake_nvml import FakeCard, FakeNvml

GIB = 2**30
TWO_ALIKE = [Gpu("H100", 80 * GIB, ("GPU-a",)), Gpu("H100", 80 * GIB, ("GPU-b",))]
MIXED = [FakeCard("L4", "GPU-11", 23 * GIB), FakeCard("H100", "GPU-22", 80 * GIB), FakeCard("A10", "GPU-33", 24 * GIB)]


def find(device: str, budget: int | None, *rest: Any, gpus: list[Gpu] | None = None) -> list[Machine]:
    return find_machines(device, budget, *rest, gpus=gpus or [], host_bytes=128 * GIB)


def test_auto_is_every_gpu_and_the_cpu_where_there_is_none() -> None:
    assert [it.device for it in find("auto", GIB)] == ["cpu"]
    found = find("auto", None, gpus=TWO_ALIKE)

    assert [it.device for it in found] == ["cuda:0", "cuda:1"]
    assert [it.name for it in found] == ["H100 0", "H100 1"]
    assert {it.memory_bytes for it in found} == {80 * GIB}


def test_two_cpu_devices_share_the_budget_and_have_names_of_their_own() -> None:
    found = find("cpu,cpu", 3 * GIB)

    assert [(it.device, it.name, it.memory_bytes) for it in found] == [
        ("cpu", f"cpu {i}", 3 * GIB // 2) for i in (0, 1)
    ]
    assert [it.name for it in find("cpu", GIB)] == ["cpu"]


def test_gpus_are_chosen_by_number_and_the_budget_is_of_each() -> None:
    assert [(it.device, it.memory_bytes) for it in find("cuda:1", 8 * GIB, gpus=TWO_ALIKE)] == [("cuda:1", 8 * GIB)]
    assert [it.device for it in find("cuda:1, cuda:0", None, gpus=TWO_ALIKE)] == ["cuda:1", "cuda:0"]


def test_gpus_share_the_host_memory_that_weights_may_wait_in() -> None:
    assert [it.parking_bytes for it in find("auto", None, 64 * GIB, gpus=TWO_ALIKE)] == [32 * GIB, 32 * GIB]
    assert [it.parking_bytes for it in find("auto", None, 0, gpus=TWO_ALIKE)] == [0, 0]
    assert [it.parking_bytes for it in find("auto", None, gpus=TWO_ALIKE)] == [32 * GIB, 32 * GIB]
    assert [it.parking_bytes for it in find("cpu", None, 64 * GIB, gpus=TWO_ALIKE)] == [0]


@pytest.mark.parametrize("setting", ["cuda:2", "cuda:0,cuda:0", "cpu,cuda:0", "gpu", "cuda,"])
def test_a_device_that_is_not_there_or_named_twice_or_mixed_is_refused_with_the_setting(setting: str) -> None:
    with pytest.raises(NoSuchDevice, match=f"device={setting}: "):
        find(setting, None, gpus=TWO_ALIKE)


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        ("1", "auto", [("cuda:0", "H100", 80)]),
        ("2,1", "auto", [("cuda:0", "A10", 24), ("cuda:1", "H100", 80)]),
        ("2,1", "cuda", [("cuda:0", "A10", 24)]),
        ("GPU-22,GPU-11", "cuda:1", [("cuda:1", "L4", 23)]),
        ("-1", "auto", [("cpu", "cpu", 76)]),
    ],
)
def test_a_cuda_device_has_the_name_and_memory_of_the_card_that_the_environment_puts_there(
    visible: str, device: str, expected: list[tuple[str, str, int]]
) -> None:
    gpus = visible_gpus(FakeNvml(MIXED), {"CUDA_VISIBLE_DEVICES": visible})
    found = find(device, None, gpus=gpus)

    assert [(it.device, it.name, it.memory_bytes // GIB) for it in found] == expected


def test_a_gpu_that_the_environment_hides_is_refused() -> None:
    gpus = visible_gpus(FakeNvml(MIXED), {"CUDA_VISIBLE_DEVICES": "1"})

    with pytest.raises(NoSuchDevice, match="device=cuda:1: this server sees cpu, cuda:0"):
        find("cuda:1", None, gpus=gpus)


class TestTorchDevice:
    """The GPU is found again by its UUID once torch is imported."""

    def machine(self, device: str, *uuids: str) -> Machine:
        return Machine(device, "H100", 80 * GIB, uuids=uuids)

    def test_a_gpu_in_the_same_place_keeps_its_name(self) -> None:
        assert torch_device(self.machine("cuda:1", "GPU-22aa"), ["11aa", "22aa"]) == "cuda:1"

    def test_a_gpu_that_torch_puts_elsewhere_is_followed(self) -> None:
        assert torch_device(self.machine("cuda:0", "GPU-22AA"), ["11aa", "22aa"]) == "cuda:1"

    def test_a_mig_instance_may_be_reported_by_the_uuid_of_its_gpu(self) -> None:
        machine = self.machine("cuda:0", "MIG-55bb", "GPU-44aa")

        assert torch_device(machine, ["55bb"]) == "cuda:0"
        assert torch_device(machine, ["44aa"]) == "cuda:0"

    def test_another_gpu_does_not_stand_in_for_one_that_torch_does_not_see(self) -> None:
        with pytest.raises(NoSuchDevice, match=r"GPU-22aa.*torch sees only 11aa, 33aa"):
            torch_device(self.machine("cuda:0", "GPU-22aa"), ["11aa", "33aa"])

    def test_a_torch_without_gpus_says_what_to_do(self) -> None:
        with pytest.raises(NoSuchDevice, match="AGENTNAME_DEVICE=cpu"):
            torch_device(self.machine("cuda:0", "GPU-22aa"), [])

    def test_the_cpu_needs_no_look_at_torch(self) -> None:
        assert torch_device(Machine("cpu", "cpu", GIB), []) == "cpu"
