"""The device of this machine, found without torch so that the server listens before torch is imported. Called once, at start."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import pynvml

CPU_SHARE = 0.6  # of the machine's memory for models when no budget is set: the rest is for the system and activations


@dataclass(frozen=True, slots=True)
class Machine:
    device: str  # "cpu" or "cuda:N", as torch names it
    name: str
    memory_bytes: int  # what models may use: the GPU's memory, or the budget on CPU


class NoSuchDevice(Exception):
    """The settings name a device that is not there; the message says which are."""


def find_machine(device: str, memory_budget: int | None) -> Machine:
    """`device`: auto, cpu, cuda or cuda:N. Raises `NoSuchDevice`."""
    gpus = _gpus()
    wanted = ("cuda:0" if gpus else "cpu") if device == "auto" else "cuda:0" if device == "cuda" else device
    if wanted == "cpu":
        budget = memory_budget or int(psutil.virtual_memory().total * CPU_SHARE)
        return Machine("cpu", "cpu", budget)
    if wanted not in gpus:
        raise NoSuchDevice(f"device={device}: this machine has {', '.join(['cpu', *gpus])}")
    name, total = gpus[wanted]
    return Machine(wanted, name, min(total, memory_budget) if memory_budget else total)


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
