"""Records a forward as a CUDA graph, so that one call launches all its kernels. Device thread only."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from pipelines import device as devices


class CaptureFailed(Exception):
    """Work could not be recorded as a CUDA graph; the device is usable."""


class GraphPool:
    """Records work as CUDA graphs that share one pool of memory, and plays them back. They must run one at a time.

    The memory of the graphs is free again when this object and what `record` returned are gone.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.stream = stream
        self._pool = torch.cuda.graph_pool_handle()
        self.n_bytes = 0  # of the pool

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run the work, then record it. Returns what runs it again, on the same tensors, to be called on the stream.

        Raises `CaptureFailed` when the work cannot be recorded, and what the work raises when it runs.
        """
        device = self.stream.device
        failure: Exception | None = None
        # Also because a recording that fails leaves its stream as the thread's present one.
        with torch.cuda.stream(self.stream):
            work()  # a first run allocates workspaces and compiles kernels, which a recording may not do
            torch.cuda.synchronize(device)
            self._check_never_waits(work)
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved(device)
            graph = torch.cuda.CUDAGraph()
            try:
                # thread_local: the device threads of other GPUs may allocate and synchronize during the recording.
                with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
                    work()
            except Exception as error:  # noqa: BLE001  # whatever a kernel or a library raises for being recorded
                failure = error
        if failure is not None:
            del graph
            self._check_device(failure)
            raise CaptureFailed(f"{type(failure).__name__}: {failure}") from failure
        torch.cuda.empty_cache()
        self.n_bytes += max(0, torch.cuda.memory_reserved(device) - before)
        replay: Callable[[], None] = graph.replay
        return replay

    def _check_never_waits(self, work: Callable[[], None]) -> None:
        """Raise `CaptureFailed` when the work makes the host wait, before a failed recording upsets the allocator.

        Only where no other device thread could be told off for waiting: the mode holds for the process.
        """
        if torch.cuda.device_count() > 1:
            return
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the mode a prototype; where it sees no wait, recording fails
            torch.cuda.set_sync_debug_mode("error")
        try:
            work()
        except RuntimeError as error:
            if "synchronizing CUDA operation" not in str(error):
                raise
            raise CaptureFailed("its forward makes the host wait for the device") from error
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    def _check_device(self, failure: Exception) -> None:
        """Raise the failure when the device cannot be used any more, rather than only not be recorded on."""
        try:
            torch.cuda.synchronize(self.stream.device)
            torch.ones(1, device=self.stream.device).sum().item()
        except RuntimeError:
            raise failure from None


def usual_pool(device_name: str) -> GraphPool:
    """A pool whose graphs may be played back on the device's usual stream, one at a time."""
    return GraphPool(devices.recording_stream(torch.device(device_name)))
