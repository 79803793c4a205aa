"""Reads a device's memory, classifies its errors and waits for it. Device thread only.

Of all files only this one uses torch.cuda, and `cuda_graphs.py` and the default generators in `batching/rng_state.py`.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch

HOST_MARGIN_BYTES = 1 << 30  # host memory that parking leaves free
POLL_S = 0.0005  # between two polls while waiting for the device: a step takes tens of milliseconds


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu"


def uuids() -> list[str]:
    """The UUID of every CUDA device that torch sees, in torch's order. Starts CUDA."""
    if not torch.cuda.is_available():
        return []
    torch.cuda.init()  # before that torch counts by the driver's list, not by CUDA's
    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]


def has_own_memory(device: str) -> bool:
    """Whether the device's memory is not the host's, so that weights can be moved between them."""
    return not device.startswith("cpu")


def memory(device: str) -> tuple[int, int]:
    """(free, total) bytes of the device as the driver reports them; other programs' memory is not free."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    raise ValueError(f"the memory of device {device!r} is a setting, not a reading")


def held_by_us(device: str) -> int:
    """Bytes that this process holds on the device: the allocator's pool, or the resident set on a CPU."""
    if device.startswith("cuda"):
        return int(torch.cuda.memory_reserved(device))
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def use_threads(count: int) -> None:
    """Set how many CPU threads one forward may use."""
    torch.set_num_threads(count)


# Messages of failed allocations that torch does not raise as `OutOfMemoryError`.
_ALLOCATION_FAILED = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",  # from the driver, e.g. for pinned host memory
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed and left the device usable."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION_FAILED)


def is_fatal(error: BaseException) -> bool:
    """Whether this process cannot use the device again after this error (a poisoned CUDA context)."""
    if is_out_of_memory(error):
        return False
    if isinstance(error, getattr(torch, "AcceleratorError", ())):
        return True
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def release_cache() -> None:
    """Return cached free memory to the device and the system. Call it outside `except`: failed frames hold tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def keep_what_is_imported() -> None:
    """Exempt all present objects from garbage collection, which stops every thread; they stay until the end."""
    gc.collect()
    gc.freeze()


class Fence:
    """Keeps the host at most one forward ahead of the device, so that canceling and preemption take effect soon."""

    def __init__(self, device: str) -> None:
        self._device = device if device.startswith("cuda") else None
        self._marks: deque[torch.cuda.Event] = deque()  # at the ends of launched forwards, oldest first

    def mark(self) -> None:
        """Mark the end of a forward in the stream."""
        if self._device is not None:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append(event)

    @property
    def passed(self) -> bool:
        """Whether all launched forwards are over."""
        while self._marks and self._marks[0].query():
            self._marks.popleft()
        return not self._marks

    def wait(self, should_yield: Callable[[], bool]) -> bool:
        """Wait until the forward before the last is over; returns False when `should_yield` returns true first.

        Sleeps between polls: a busy loop would starve other threads of the interpreter lock.
        """
        while not self.passed and len(self._marks) > 1:
            if should_yield():
                return False
            time.sleep(POLL_S)
        return True


class PeakMeter:
    """Measures the peak of allocated bytes on top of those at its start. The measurement may be paused and resumed.

    On CUDA the allocator's counters cost nothing. On a CPU the source is the profiler's record of one thread's
    allocations; it costs a few percent, so a lane measures each shape once.
    """

    def __init__(self, device: str) -> None:
        self._device = device if device.startswith("cuda") else None
        self._peak = 0
        self._held = 0  # bytes that the measured code held when it was last paused
        self._base = 0  # bytes of all other code when the measurement was last resumed

    def resume(self) -> None:
        if self._device is None:
            torch._C._autograd._enable_profiler_legacy(_MEMORY_ONLY)
            return
        torch.cuda.reset_peak_memory_stats(self._device)
        self._base = torch.cuda.memory_allocated(self._device) - self._held

    def pause(self) -> None:
        if self._device is None:
            for n_bytes in _allocations():
                self._held += n_bytes
                self._peak = max(self._peak, self._held)
            return
        self._peak = max(self._peak, torch.cuda.max_memory_allocated(self._device) - self._base)
        self._held = torch.cuda.memory_allocated(self._device) - self._base

    @property
    def peak_bytes(self) -> int:
        return self._peak


class LaunchTimer:
    """Times a block of launches, without waiting: how long the host took for it, and how long the device."""

    def __init__(self, device: str) -> None:
        self.host_s = 0.0
        self._device = device if device.startswith("cuda") else None
        self._events: list[torch.cuda.Event] = []  # before the first kernel and after the last

    def __enter__(self) -> LaunchTimer:
        self._mark()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.host_s = time.perf_counter() - self._began
        self._mark()

    def _mark(self) -> None:
        if self._device is not None:
            self._events.append(torch.cuda.Event(enable_timing=True))
            self._events[-1].record(torch.cuda.current_stream(self._device))

    @property
    def device_s(self) -> float | None:
        """None while the device is still at it. On a CPU the same as `host_s`."""
        if not self._events:
            return self.host_s
        first, last = self._events
        return first.elapsed_time(last) / 1e3 if last.query() else None


# torch's legacy profiler: unlike the new one it records a single thread, starts at once and keeps no other state.
_MEMORY_ONLY = torch._C._profiler.ProfilerConfig(
    torch._C._profiler.ProfilerState.CPU,
    False,  # no shapes of inputs
    True,  # memory
    False,  # no stacks
    False,  # no operation counts
    False,  # no modules
    torch._C._profiler._ExperimentalConfig(),
)


def _allocations() -> Iterator[int]:
    """Stop the profiler. Yields the bytes allocated (> 0) and freed (< 0), in order."""
    for thread in torch._C._autograd._disable_profiler_legacy():
        for event in thread:
            if event.kind() == "memory_alloc":  # type: ignore[comparison-overlap]  # a string at run time
                yield event.cpu_memory_usage()


def priority_stream(device: torch.device) -> torch.cuda.Stream | None:
    """The device's stream whose work goes ahead of what other streams have queued; None on a CPU.

    Synchronizes first, so that tensors that other streams wrote are complete.
    """
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    return _priority_stream(device)


@functools.cache  # one for all: cuBLAS keeps a workspace for each stream that it has ever run on, 32 MiB on an H200
def _priority_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)


@functools.cache
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """The device's stream, of usual priority, on which forwards are recorded: the one that computes cannot be."""
    return torch.cuda.Stream(device)


def finish(device: str) -> None:
    """Wait until the device has done all that was launched."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory; pinned when the tensor is on CUDA, so that the way back is fast."""
    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor)


def obtainable_bytes(device: str) -> int:
    """Bytes that could be allocated on the device: those that are free, and those that the allocator keeps unused."""
    if not device.startswith("cuda"):
        return host_free_bytes()
    return memory(device)[0] + held_by_us(device) - int(torch.cuda.memory_allocated(device))


def host_free_bytes() -> int:
    """Bytes of the machine's memory that can be taken without swapping."""
    with open("/proc/meminfo") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Whether kernels in Triton may run on the device. Builds of torch for CUDA usually bring it."""
    return device.type == "cuda" and find_spec("triton") is not None


def supports_fp8(device: str) -> bool:
    """Whether the device multiplies matrices of fp8 (Ada, Hopper and newer)."""
    return device.startswith("cuda") and torch.cuda.get_device_capability(device) >= (8, 9)


def on_stream(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    """Launches the work of the block on a stream, as `priority_stream` gives one; None: as without the block."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def pinned(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros in host memory that the device can copy from and to while the host goes on."""
    return torch.zeros(*shape, dtype=dtype, pin_memory=device.type == "cuda")


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on the device, without waiting for the device."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


class HostCopy:
    """A small tensor on its way to the host. The copy is launched on the current stream."""

    def __init__(self, tensor: torch.Tensor, host: torch.Tensor) -> None:
        """host: of `pinned`, at least as long as the tensor, which has one dimension."""
        self._host = host[: len(tensor)]
        self._host.copy_(tensor, non_blocking=True)
        self._done: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._done = torch.cuda.Event(blocking=True)  # the waiting thread sleeps; torch lets go of the lock, too
            self._done.record(torch.cuda.current_stream(tensor.device))

    @property
    def is_done(self) -> bool:
        return self._done is None or self._done.query()

    def wait(self) -> torch.Tensor:
        """The tensor in host memory, once all that was launched before the copy is done."""
        if self._done is not None:
            self._done.synchronize()
        return self._host
