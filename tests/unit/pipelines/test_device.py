"""Which errors of a device are out of memory, and which mean that this process cannot use the device again."""

from __future__ import annotations

import pytest
import torch

from pipelines import device

MISSING = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    ("error", "out_of_memory", "fatal"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True, False),
        (MemoryError(), True, False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), True, False),
        (torch.AcceleratorError("CUDA error: out of memory"), True, False),  # pinned host memory, raised by the driver
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (torch.AcceleratorError(MISSING), False, True),
        (RuntimeError(MISSING), False, True),
        (RuntimeError("shapes cannot be multiplied"), False, False),
        (ValueError("CUDA error: not torch's words"), False, False),
    ],
    ids=lambda value: f"{type(value).__name__}: {value}" if isinstance(value, Exception) else "",
)
def test_an_error_is_out_of_memory_or_fatal_or_neither(error: Exception, out_of_memory: bool, fatal: bool) -> None:
    assert (device.is_out_of_memory(error), device.is_fatal(error)) == (out_of_memory, fatal)
