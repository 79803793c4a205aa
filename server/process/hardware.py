"""The devices of this machine, found without torch so that the server listens before torch is imported. Called once, at start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import psutil
import pynvml

CPU_SHARE = 0.6  # of the machine's memory for models when no budget is set: the rest is for the system and activations
PARKING_SHARE = 0.5  # of the machine's memory for weights that GPUs parked, of all of them together


@dataclass(frozen=True, slots=True)
class Machine:
    device: str  # "cpu" or "cuda:N", as torch names it
    name: str  # shown; no two devices of a server share one
    memory_bytes: int  # what models may use: the GPU's memory, or the budget on CPU
    parking_bytes: int = 0  # host memory for weights that wait beside the device; 0 where the device is the host


class NoSuchDevice(Exception):
    """The settings name a device that is not there; the message says which are."""


def find_machines(device: str, memory_budget: int | None, parking_budget: int | None = None) -> list[Machine]:
    """One of each name in `device`: auto (every GPU, else the CPU), cpu, cuda, cuda:N, or several of them with commas.

    `cpu,cpu` are two devices that share the memory in halves. Raises `NoSuchDevice`.
    """
    gpus = _gpus()
    names = [name.strip() for name in device.split(",")]
    wanted = [found for name in names for found in _meant(name, gpus)]
    for name in wanted:
        if name != "cpu" and name not in gpus:
            raise NoSuchDevice(f"device={device}: this machine has {', '.join(['cpu', *gpus])}")
        if name != "cpu" and wanted.count(name) > 1:
            raise NoSuchDevice(f"device={device}: {name} is named twice")
    if "cpu" in wanted and set(wanted) != {"cpu"}:
        raise NoSuchDevice(f"device={device}: models run on GPUs or on the CPU, not on both at once")
    host_bytes = psutil.virtual_memory().total
    budget = memory_budget or int(host_bytes * CPU_SHARE)
    parking = int(host_bytes * PARKING_SHARE) if parking_budget is None else parking_budget
    on_cpu, on_gpu = (max(1, n) for n in (wanted.count("cpu"), len(wanted) - wanted.count("cpu")))
    found = [_machine(name, gpus, memory_budget, budget // on_cpu, parking // on_gpu) for name in wanted]
    # A name tells a device's rows apart: two alike are numbered.
    alike = len({machine.name for machine in found}) < len(found)
    return [replace(it, name=f"{it.name} {_number(it, i)}") for i, it in enumerate(found)] if alike else found


def _number(machine: Machine, ordinal: int) -> str:
    """A GPU's own, as the driver counts."""
    return machine.device.partition(":")[2] or str(ordinal)


def _meant(name: str, gpus: Mapping[str, object]) -> list[str]:
    if name == "auto":
        return list(gpus) or ["cpu"]
    return ["cuda:0"] if name == "cuda" else [name]


def _machine(
    name: str, gpus: Mapping[str, tuple[str, int]], memory_budget: int | None, cpu_bytes: int, parking_bytes: int
) -> Machine:
    if name == "cpu":
        return Machine("cpu", "cpu", cpu_bytes)
    called, total = gpus[name]
    return Machine(name, called, min(total, memory_budget) if memory_budget else total, parking_bytes)


def _gpus() -> dict[str, tuple[str, int]]:
    """Name and bytes of each GPU the driver knows; none without a driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return {
            f"cuda:{i}": (str(pynvml.nvmlDeviceGetName(handle)), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))
            for i, handle in enumerate(handles)
        }
    finally:
        pynvml.nvmlShutdown()
