"""The process that compiles, with torch's own compiler: slow, and only where there is a C++ compiler."""

from __future__ import annotations

import functools
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from pipelines.block_calls import describe_call
from pipelines.diffusion.compile_worker import Worker
from pipelines.diffusion.compiled_blocks import CompiledBlocks


class Block(nn.Module):
    """Two of its layers read the same, so that they are one product in compiled code."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear, self.gate = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, hidden: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        normed = self.norm(hidden)
        return hidden + scale * torch.nn.functional.gelu(self.gate(normed)) * self.linear(normed)


class Denoiser(nn.Module):
    _repeated_blocks = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, hidden: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden = block(hidden, scale)
        return hidden


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    counters.clear()
    yield tmp_path / "cache"
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns about many things
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@torch.no_grad()
def test_what_the_worker_compiled_is_found_in_the_cache_and_computes_the_same(cache: Path) -> None:
    denoiser = Denoiser().eval()
    blocks = CompiledBlocks([denoiser], prepare=functools.partial(Worker, device_name="cpu"))
    forward = blocks.wrap_forward(denoiser.forward, allowed=True)
    hidden, scale = torch.randn(2, 5, 64), torch.randn(2, 1, 64)

    expected = forward(hidden, scale)
    blocks.job_ended()
    while blocks.preparing:
        time.sleep(0.05)
    compiled = forward(hidden, scale)

    assert blocks.notes == ["Its blocks run compiled: Block (1 graph)."]
    assert counters["inductor"]["fxgraph_cache_hit"] == 1
    assert counters["inductor"]["fxgraph_cache_miss"] == 0
    assert torch.allclose(compiled, expected, atol=1e-5)
    assert not list(cache.parent.glob("compile-*"))  # the worker's own folder


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_memory_format_does_not_name_the_module_that_imported_torch(memory_format: torch.memory_format) -> None:
    pickled = pickle.dumps(memory_format)

    assert pickle.loads(pickled) is memory_format
    assert b"pipelines.stable_pickles" in pickled
    assert b"test_compile_worker" not in pickled


@pytest.mark.slow
@torch.no_grad()
def test_a_block_that_cannot_be_compiled_is_told_with_the_reason(cache: Path) -> None:
    call = describe_call(Block(), (torch.randn(2, 5, 64), torch.randn(3, 1, 64)), {})
    worker = Worker([call], "cpu")

    while (reasons := worker.failures()) is None:
        time.sleep(0.05)

    (reason,) = reasons
    assert "TorchRuntimeError" in reason


def test_a_stopped_worker_leaves_nothing_behind(cache: Path) -> None:
    worker = Worker([describe_call(Block(), (torch.randn(2, 5, 64), torch.randn(2, 1, 64)), {})], "cpu")

    worker.stop()

    assert worker._process.returncode is not None
    assert not list(cache.parent.glob("compile-*"))


WAITS = """
import subprocess
held = open({fifo!r}, "w")
print("started", file=held, flush=True)
subprocess.call(["sh", "-c", "sleep 60; echo outlived"], stdout=held)
"""


class Waits:
    """In place of a call: reading it, the worker starts a process and waits for it, as for one of the compiler."""

    def __init__(self, fifo: Path) -> None:
        self.fifo = fifo

    def __reduce__(self) -> Any:
        return exec, (WAITS.format(fifo=str(self.fifo)),)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe that the worker and the process under it hold open, so that it ends when both have."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


@pytest.mark.slow
def test_a_stopped_worker_takes_the_processes_under_it_along(cache: Path, fifo: Path) -> None:
    worker = Worker([Waits(fifo)], "cpu")  # type: ignore[list-item]
    with fifo.open() as held:
        assert held.readline() == "started\n"

        worker.stop()

        assert held.read() == ""


@pytest.mark.slow
def test_a_worker_and_the_processes_under_it_end_with_a_server_that_is_killed(cache: Path, fifo: Path) -> None:
    here = Path(__file__).parent
    server = "import sys, pathlib, test_compile_worker as t; w = t.Worker([t.Waits(pathlib.Path(sys.argv[1]))], 'cpu')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *filter(None, sys.path)])}
    command = [sys.executable, "-c", f"{server}; input()", str(fifo)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process, fifo.open() as held:
        assert held.readline() == "started\n"

        process.kill()

        assert held.read() == ""
    assert not list(cache.parent.glob("compile-*"))
