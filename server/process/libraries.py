"""Imports torch and the libraries over it once, on the thread that needs them first, while others wait. Any thread.

Two threads cannot import them at the same time: transformers replaces its own module while it is being imported, and a
second thread would find the one that is replaced. A server that starts does not wait for the import.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

TORCH_ENVIRONMENT = {  # read when torch or CUDA starts; what the user has set stays
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # measuring memory would make torch warn
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # cuda:N is then the driver's N-th GPU; by default CUDA puts the fastest first
}
MOST_COMPILERS = 8  # processes that compile kernels at the same time; each takes some hundred MB

_turn = threading.Lock()


def keep_compiled_code(cache_dir: Path) -> None:
    """Let torch's compiler keep its results below `cache_dir` across starts. What the user has set stays."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "compiled"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(min(MOST_COMPILERS, os.cpu_count() or 1)))


def import_libraries() -> None:
    with _turn:
        for variable, value in TORCH_ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        from models.loading.load import quiet_libraries

        quiet_libraries()


def stop_compilers() -> None:
    """End the worker processes of torch's compiler, if there are any: at exit torch 2.11 may wait for them for minutes.

    Nothing can be compiled after that.
    """
    compiler = sys.modules.get("torch._inductor.async_compile")
    for pool in () if compiler is None else compiler._pool_set:
        process = getattr(pool, "process", None)
        if process is not None:
            process.kill()
