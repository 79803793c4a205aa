"""Makes a module run out of memory inside its forward, as on a full device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipelines.batching.preemption import repeated_blocks


@contextmanager
def out_of_memory(module: torch.nn.Module, *, times: int | None = None, above_rows: int = 0) -> Iterator[list[int]]:
    """Make the first `times` forwards (None: all) of more than `above_rows` rows fail. Yields a list of their rows."""
    failed: list[int] = []

    def fail(block: torch.nn.Module, args: tuple[Any, ...]) -> None:
        rows = len(args[0])
        if rows > above_rows and (times is None or len(failed) < times):
            failed.append(rows)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = next(repeated_blocks(module)).register_forward_pre_hook(fail)
    try:
        yield failed
    finally:
        hook.remove()
