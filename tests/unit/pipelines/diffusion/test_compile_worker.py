"""The process that compiles, with torch's own compiler: slow, and only where there is a C++ compiler."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from pipelines.diffusion.block_calls import describe_call
from pipelines.diffusion.compile_worker import Worker
from pipelines.diffusion.compiled_blocks import CompiledBlocks


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, hidden: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return hidden + scale * torch.nn.functional.gelu(self.linear(self.norm(hidden)))


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
    hidden, scale = torch.randn(2, 5, 16), torch.randn(2, 1, 16)

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


@pytest.mark.slow
@torch.no_grad()
def test_a_block_that_cannot_be_compiled_is_told_with_the_reason(cache: Path) -> None:
    call = describe_call(Block(), (torch.randn(2, 5, 16), torch.randn(3, 1, 16)), {})
    worker = Worker([call], "cpu")

    while (reasons := worker.failures()) is None:
        time.sleep(0.05)

    (reason,) = reasons
    assert "TorchRuntimeError" in reason


def test_a_stopped_worker_leaves_nothing_behind(cache: Path) -> None:
    worker = Worker([describe_call(Block(), (torch.randn(2, 5, 16), torch.randn(2, 1, 16)), {})], "cpu")

    worker.stop()

    assert worker._process.returncode is not None
    assert not list(cache.parent.glob("compile-*"))
