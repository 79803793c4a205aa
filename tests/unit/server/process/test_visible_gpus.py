"""Which of the driver's GPUs a server sees as cuda:0, cuda:1, …: CUDA_VISIBLE_DEVICES is read as CUDA reads it."""

from __future__ import annotations

import pytest

from server.process.visible_gpus import visible_gpus
from tests.support.fake_nvml import FakeCard, FakeInstance, FakeNvml

GIB = 2**30
A10 = FakeCard("A10", "GPU-1a110000-aaaa", 24 * GIB, knows_mig=False)
H100 = FakeCard("H100", "GPU-1a220000-bbbb", 80 * GIB)
L4 = FakeCard("L4", "GPU-3c330000-cccc", 23 * GIB)
CARDS = [A10, H100, L4]

SMALL = FakeInstance("A100 MIG 1g.5gb", "MIG-51110000-dddd", 5 * GIB, ids=(7, 0))
LARGE = FakeInstance("A100 MIG 3g.20gb", "MIG-52220000-eeee", 20 * GIB, ids=(2, 0))
SPLIT = FakeCard("A100", "GPU-4d440000-ffff", 40 * GIB, mig=[None, SMALL, LARGE])


def seen(nvml: FakeNvml, visible: str | None) -> list[tuple[str, int]]:
    """Name and GiB of each GPU, in CUDA's order, when CUDA_VISIBLE_DEVICES is `visible`."""
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return [(gpu.name, gpu.memory_bytes // GIB) for gpu in visible_gpus(nvml, environment)]


def test_all_gpus_are_visible_when_nothing_is_said() -> None:
    assert seen(FakeNvml(CARDS), None) == [("A10", 24), ("H100", 80), ("L4", 23)]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        pytest.param("1", ["H100"], id="one index"),
        pytest.param("2,0", ["L4", "A10"], id="indices in another order"),
        pytest.param(" 2 , 1", ["L4", "H100"], id="spaces"),
        pytest.param("1gpu,2", ["H100", "L4"], id="digits with letters behind them"),
        pytest.param("GPU-3c330000-cccc,GPU-1a110000-aaaa", ["L4", "A10"], id="UUIDs"),
        pytest.param("GPU-1a2,GPU-3c", ["H100", "L4"], id="beginnings of UUIDs"),
        pytest.param("", [], id="empty"),
        pytest.param("-1", [], id="minus one"),
        pytest.param("NoDevFiles", [], id="a word"),
        pytest.param("1,-1,2", ["H100"], id="minus one ends the list"),
        pytest.param("2,3,0", ["L4"], id="an index that does not exist ends the list"),
        pytest.param("2,,0", ["L4"], id="an empty entry ends the list"),
        pytest.param("GPU-3c,GPU-9,GPU-1a11", ["L4"], id="an unknown UUID ends the list"),
        pytest.param("GPU-3c,GPU-1a", ["L4"], id="an ambiguous beginning ends the list"),
        pytest.param("GPU-3c,1", ["L4"], id="an index among UUIDs ends the list"),
        pytest.param("1,GPU-3c", ["H100"], id="a UUID among indices ends the list"),
        pytest.param("1,1", [], id="an index twice leaves nothing"),
        pytest.param("GPU-1a22,GPU-1a220000", [], id="a GPU named twice by UUIDs leaves nothing"),
        pytest.param("MIG-51110000-dddd", [], id="a MIG instance where there is none"),
    ],
)
def test_visible_devices_are_chosen_and_ordered_by_the_environment(visible: str, expected: list[str]) -> None:
    memory = {"A10": 24, "H100": 80, "L4": 23}

    assert seen(FakeNvml(CARDS), visible) == [(name, memory[name]) for name in expected]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        pytest.param("MIG-52220000-eeee", [("A100 MIG 3g.20gb", 20)], id="by UUID"),
        pytest.param("MIG-522", [("A100 MIG 3g.20gb", 20)], id="by the beginning of its UUID"),
        pytest.param("MIG-GPU-4d440000-ffff/2/0", [("A100 MIG 3g.20gb", 20)], id="by its older name"),
        pytest.param("MIG-5", [], id="ambiguous"),
        pytest.param("0", [("A100 MIG 1g.5gb", 5)], id="the card's index means its first instance"),
        pytest.param("GPU-4d", [("A100 MIG 1g.5gb", 5)], id="the card's UUID means its first instance"),
        pytest.param(None, [("A100 MIG 1g.5gb", 5), ("L4", 23)], id="unset"),
        pytest.param("MIG-522,MIG-511", [("A100 MIG 3g.20gb", 20)], id="a process sees one instance"),
    ],
)
def test_a_mig_instance_counts_with_its_own_memory(visible: str | None, expected: list[tuple[str, int]]) -> None:
    assert seen(FakeNvml([SPLIT, L4]), visible) == expected


def test_a_mig_instance_is_known_by_its_own_uuid_and_by_that_of_its_gpu() -> None:
    (gpu,) = visible_gpus(FakeNvml([SPLIT]), {})

    assert gpu.uuids == ("MIG-51110000-dddd", "GPU-4d440000-ffff")


def test_a_gpu_in_mig_mode_without_an_instance_is_no_device() -> None:
    nvml = FakeNvml([FakeCard("A100", "GPU-4d", 40 * GIB, mig=[None]), L4])

    assert seen(nvml, None) == [("L4", 23)]
    assert seen(nvml, "1,0") == [("L4", 23)]
    assert seen(nvml, "0,1") == []


def test_a_card_that_this_process_may_not_open_has_no_index() -> None:
    nvml = FakeNvml([FakeCard("A10", "GPU-1a", 24 * GIB, forbidden=True), H100, L4])

    assert seen(nvml, "1") == [("L4", 23)]


def test_without_a_driver_there_is_no_gpu_and_the_driver_is_closed_after_use() -> None:
    nvml = FakeNvml(CARDS)
    visible_gpus(nvml, {})

    assert seen(FakeNvml([], has_driver=False), None) == []
    assert not nvml.is_open
