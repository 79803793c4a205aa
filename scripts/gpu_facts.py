"""What a GPU machine is and can do, found in a few seconds: versions, rates, and the kernels that torch brings."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu_results import machine, matmul_flops_per_s, timed

COPY_BYTES = 4 << 30  # far more than the cache of a card
PINNED_BYTES = 1 << 30
OPTIONAL = ("torchao", "flash_attn", "kernels", "imageio_ffmpeg", "torchvision", "pynvml", "bitsandbytes")

Record = Callable[..., None]


def check_facts(tiny: bool, device: str, record: Record) -> None:
    found = {name: importlib.util.find_spec(name) is not None for name in OPTIONAL}
    record(**machine(device), packages=found, nvcc=shutil.which("nvcc"))
    record(matmul_tera_flops_per_s=round(matmul_flops_per_s(device) / 1e12, 2))
    if not device.startswith("cuda"):
        return
    record(**_copy_rates(device))
    for check in (_attention, _paged_attention, _float8, _triton):
        try:
            record(**{check.__name__.strip("_"): check(device)})
        except Exception as error:  # noqa: BLE001  # each fact is worth having alone
            record(**{check.__name__.strip("_"): f"{type(error).__name__}: {error}"[:500]})


def _copy_rates(device: str) -> dict[str, float]:
    """Bytes a second: read and written by a copy within the card, and copied from pinned host memory."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    pinned = torch.empty(PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
    within = _per_second(device, lambda: target.copy_(source), 2 * COPY_BYTES)
    to_card = _per_second(device, lambda: target[:PINNED_BYTES].copy_(pinned, non_blocking=True), PINNED_BYTES)
    return {"copy_within_gb_per_s": round(within / 1e9), "copy_to_card_gb_per_s": round(to_card / 1e9, 1)}


def _per_second(device: str, work: Callable[[], Any], n_bytes: int) -> float:
    work()
    return 5 * n_bytes / timed(device, lambda: [work() for _ in range(5)])[1]


def _attention(device: str) -> dict[str, str]:
    """Milliseconds of each of torch's attention backends for FLUX.1 at 1024²: 4,608 tokens, 24 heads of 128."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    query = torch.randn(1, 24, 4608, 128, device=device, dtype=torch.bfloat16)
    found = {}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel(backend):
                scaled_dot_product_attention(query, query, query)
                seconds = timed(device, lambda: [scaled_dot_product_attention(query, query, query) for _ in range(10)])[
                    1
                ]
            found[backend.name] = f"{100 * seconds:.3f} ms"
        except RuntimeError as error:
            found[backend.name] = str(error)[:120]
    return found


def _paged_attention(device: str) -> str:
    """Whether torch's own flash attention over a paged cache is there and runs, as decoding by CUDA graphs wants it."""
    import inspect

    from torch.nn.attention.varlen import varlen_attn

    names = list(inspect.signature(varlen_attn).parameters)
    return "has seqused_k and block_table" if {"seqused_k", "block_table"} <= set(names) else f"has {names}"


def _float8(device: str) -> str:
    a, b = (torch.randn(4096, 4096, device=device).to(torch.float8_e4m3fn) for _ in range(2))
    scale = torch.ones((), device=device)
    call = lambda: torch._scaled_mm(a, b.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)  # noqa: E731
    call()
    seconds = timed(device, lambda: [call() for _ in range(10)])[1]
    return f"{2 * 4096**3 * 10 / seconds / 1e12:.0f} TFLOP/s at 4096"


def _triton(device: str) -> str:
    """The seconds that torch.compile takes for a small function: whether a compiler is there that works."""
    function = torch.compile(lambda x: torch.nn.functional.gelu(x * 2 + 1).sum())
    x = torch.randn(1 << 20, device=device)
    return f"compiled in {timed(device, lambda: function(x))[1]:.1f} s"
