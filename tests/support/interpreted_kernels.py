"""Triton kernels on a CPU, by Triton's own interpreter: slow, so that everything about them is made small.

    TRITON_INTERPRET=1 python -m pytest tests/unit/pipelines/chat/sampling/test_kernel_choice.py

Triton reads that variable when it is imported. Without it, and without Triton, such tests are skipped.
"""

from __future__ import annotations

import builtins
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest


class _Int(int):
    """`int` that takes an array of one number, as numpy's own did when Triton's interpreter was written."""

    def __new__(cls, value: Any = 0, *base: Any) -> Any:
        return builtins.int(value.item() if isinstance(value, np.ndarray) else value, *base)


@contextmanager
def interpreted_choice(parts: int, block: int) -> Iterator[Any]:
    """The module `kernel_choice`, with so many programs a row that read so many tokens at a time."""
    if find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs Triton and TRITON_INTERPRET=1")
    with pytest.MonkeyPatch.context() as patch:
        kernels = importlib.import_module("pipelines.chat.sampling.triton_kernels")
        interpreter = importlib.import_module("triton.runtime.interpreter")
        patch.setattr(interpreter, "int", _Int, raising=False)
        for name, value in {"PARTS": parts, "BLOCK": block, "ROW_BLOCK": 2 * block}.items():
            patch.setattr(kernels, name, kernels.tl.constexpr(value))
        yield importlib.import_module("pipelines.chat.sampling.kernel_choice")
