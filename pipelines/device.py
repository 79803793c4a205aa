"""The device: its memory, its errors, its fence. The only file that names torch.cuda. Device thread only."""

from __future__ import annotations

import gc
import resource

import torch


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def memory(device: str) -> tuple[int, int]:
    """(free, total) bytes as the driver reports them, other programs' use included."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    raise ValueError(f"the memory of device {device!r} is a setting, not a reading")


def held_by_us(device: str) -> int:
    """Bytes this process holds on the device: the allocator's pool, or the resident set on CPU."""
    if device.startswith("cuda"):
        return int(torch.cuda.memory_reserved(device))
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def use_threads(count: int) -> None:
    """How many CPU threads one forward may use."""
    torch.set_num_threads(count)


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation that failed and left the device usable."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)


def is_fatal(error: BaseException) -> bool:
    """True for an error after which this process cannot use the device again (a poisoned CUDA context)."""
    accelerator_error = getattr(torch, "AcceleratorError", ())
    if isinstance(error, accelerator_error):
        return not isinstance(error, torch.OutOfMemoryError)
    text = str(error)
    return isinstance(error, RuntimeError) and "CUDA error" in text and "out of memory" not in text


def release_cache() -> None:
    """Give freed blocks back. Call it outside `except`, when the failed frames are gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Fence:
    """Keeps the host at most one step ahead of the device, so that cancel and turn-taking act on the next step."""

    def __init__(self, device: str) -> None:
        self._event = torch.cuda.Event(blocking=True) if device.startswith("cuda") else None
        self._armed = False

    def pass_(self) -> None:
        """Wait for what was launched up to the last call, then mark what has been launched since."""
        if self._event is None:
            return
        if self._armed:
            self._event.synchronize()
        self._event.record()
        self._armed = True
