"""Stands in for `GraphPool` where there is no CUDA: a replay runs the recorded work again, on the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree


class RecordingPool:
    """As with a graph, the output of every replay is in the tensors of the first, over that of the replay before."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self.n_recordings = 0
        self.n_replays = 0
        self.error: Exception | None = None  # raised by the next recording

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.error is not None:
            raise self.error
        work()
        self.n_recordings += 1
        self.n_bytes += 1 << 20
        recorded: Any = getattr(work, "__self__", None)
        output = recorded.output

        def replay() -> None:
            self.n_replays += 1
            with torch.no_grad():
                work()
                for place, new in zip(pytree.tree_leaves(output), pytree.tree_leaves(recorded.output), strict=True):
                    if isinstance(place, torch.Tensor):
                        place.copy_(new)
            recorded.output = output

        return replay
