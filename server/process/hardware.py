"""Chooses the devices that the server runs on. Main thread, once, at start; torch is not imported yet.

The server listens before torch is imported, so the GPUs come from the driver (`visible_gpus`). Torch may order them
otherwise; `torch_device` finds each of them again by its UUID once torch is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from server.process.visible_gpus import Gpu

CPU_SHARE = 0.6  # of host memory, for models when no budget is set: the rest is for the system and other programs
PARKING_SHARE = 0.5  # of host memory, for the parked weights of all GPUs together


@dataclass(frozen=True, slots=True)
class Machine:
    device: str  # "cpu" or "cuda:N", as the settings and models.toml name it
    name: str  # shown to people; no two devices of a server share one
    memory_bytes: int  # what models may use: the GPU's memory, or the budget on the CPU
    parking_bytes: int = 0  # host memory for parked weights; 0 where the device is the host
    uuids: tuple[str, ...] = ()  # of the GPU: what torch may report for it; see `Gpu.uuids`


class NoSuchDevice(Exception):
    """The settings name a device that does not exist; the message says which devices do."""


def find_machines(
    device: str,
    memory_budget: int | None,
    parking_budget: int | None = None,
    *,
    gpus: Sequence[Gpu],
    host_bytes: int,
) -> list[Machine]:
    """One machine for each name in `device`: auto (every GPU, else the CPU), cpu, cuda, cuda:N, or several with commas.

    gpus: as CUDA orders them. host_bytes: memory of the machine, or of the container where that is less.
    `cpu,cpu` are two devices that share the memory in halves. Raises `NoSuchDevice`.
    """
    by_name = {f"cuda:{i}": gpu for i, gpu in enumerate(gpus)}
    wanted = [found for name in device.split(",") for found in _expand(name.strip(), by_name)]
    for name in wanted:
        if name != "cpu" and name not in by_name:
            raise NoSuchDevice(f"device={device}: this server sees {', '.join(['cpu', *by_name])}")
        if name != "cpu" and wanted.count(name) > 1:
            raise NoSuchDevice(f"device={device}: {name} is named twice")
    if "cpu" in wanted and set(wanted) != {"cpu"}:
        raise NoSuchDevice(f"device={device}: models run on GPUs or on the CPU, not on both at once")
    n_cpus, n_gpus = (max(1, n) for n in (wanted.count("cpu"), len(wanted) - wanted.count("cpu")))
    budget = min(memory_budget, host_bytes) if memory_budget else int(host_bytes * CPU_SHARE)
    parking = int(host_bytes * PARKING_SHARE) if parking_budget is None else parking_budget
    found = [
        Machine("cpu", "cpu", budget // n_cpus)
        if name == "cpu"
        else _gpu_machine(name, by_name[name], memory_budget, parking // n_gpus)
        for name in wanted
    ]
    # The name tells the devices apart in status replies: equal names get a number.
    alike = len({machine.name for machine in found}) < len(found)
    return [replace(it, name=f"{it.name} {_number(it, i)}") for i, it in enumerate(found)] if alike else found


def auto_dtype(machines: Sequence[Machine]) -> Literal["float32", "bfloat16"]:
    """Returns the precision of models whose dtype is "auto"."""
    return "float32" if machines[0].device == "cpu" else "bfloat16"


def torch_device(machine: Machine, torch_uuids: Sequence[str]) -> str:
    """Torch's own name for `machine`. torch_uuids: of each CUDA device that torch sees, in torch's order.

    The name differs from `machine.device` where torch orders the GPUs otherwise (`CUDA_DEVICE_ORDER=FASTEST_FIRST`).
    Raises `NoSuchDevice` when torch does not see the GPU.
    """
    if machine.device == "cpu":
        return "cpu"
    seen = [_plain(uuid) for uuid in torch_uuids]
    index = int(machine.device.partition(":")[2])
    for uuid in map(_plain, machine.uuids):
        if seen[index : index + 1] == [uuid]:  # several MIG instances may report the UUID of their common GPU
            return machine.device
        if uuid in seen:
            return f"cuda:{seen.index(uuid)}"
    if not seen:
        raise NoSuchDevice(
            f"The driver shows {machine.name} as {machine.device}, but torch sees no GPU: this build of torch has no "
            "CUDA, or needs a newer driver. Install another build, or set AGENTNAME_DEVICE=cpu."
        )
    raise NoSuchDevice(
        f"The driver shows {machine.name} ({machine.uuids[0]}) as {machine.device}, but torch sees only "
        f"{', '.join(torch_uuids)}. Unset CUDA_DEVICE_ORDER, and name the GPUs in CUDA_VISIBLE_DEVICES by their UUIDs."
    )


def _plain(uuid: str) -> str:
    """A UUID without the prefix that NVML writes and torch does not."""
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


def _number(machine: Machine, ordinal: int) -> str:
    """A GPU's number as in `cuda:N`; a CPU device's place in the setting."""
    return machine.device.partition(":")[2] or str(ordinal)


def _expand(name: str, gpus: Mapping[str, object]) -> list[str]:
    if name == "auto":
        return list(gpus) or ["cpu"]
    return ["cuda:0"] if name == "cuda" else [name]


def _gpu_machine(name: str, gpu: Gpu, memory_budget: int | None, parking_bytes: int) -> Machine:
    memory_bytes = min(gpu.memory_bytes, memory_budget) if memory_budget else gpu.memory_bytes
    return Machine(name, gpu.name, memory_bytes, parking_bytes, gpu.uuids)
