"""Random pages, queries and new tokens for the attention of decode steps, run by any of its kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.chat.decode.attention import Kernel
from pipelines.chat.decode.pages import Layer, Pages, reading

PAGE_TOKENS = 32


@dataclass(frozen=True, slots=True)
class AttentionCase:
    heads: int
    kv_heads: int
    dim: int
    positions: tuple[int, ...] = (0, 31, 32, 700, 1023)  # of each row's new token
    window: int | None = None
    softcap: float = 0.0
    sinks: bool = False

    def run(self, kernel: Kernel, dtype: torch.dtype, device: Any) -> tuple[Tensor, Tensor]:
        """What the rows attend to, (R, heads, dim) in float32, and the cache after that; the same in each call."""
        n_rows = len(self.positions)
        n_columns = -(-min(max(self.positions) + 1, self.window or 1 << 30) // PAGE_TOKENS)
        n_pages = n_columns * n_rows + 1  # page 0 is nobody's
        generator = torch.Generator().manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype)

        table = (torch.randperm(n_pages - 1, generator=generator) + 1).int().view(n_columns, n_rows).to(device)
        cache = drawn(2, n_pages, PAGE_TOKENS, self.kv_heads, self.dim)
        query = drawn(n_rows, self.heads, self.dim)
        key, value = drawn(n_rows, self.kv_heads, self.dim), drawn(n_rows, self.kv_heads, self.dim)
        sinks = drawn(self.heads) if self.sinks else None
        positions = torch.tensor(self.positions, dtype=torch.int32, device=device)
        pages = Pages([Layer(cache[0], cache[1], table, self.window)], positions)
        with reading(pages, n_rows, n_columns):
            mixed = kernel(query, key, value, self.dim**-0.5, self.softcap, sinks, pages)
        return mixed.float(), cache


CASES = [
    AttentionCase(32, 8, 64),
    AttentionCase(4, 4, 32),
    AttentionCase(9, 3, 80),
    AttentionCase(64, 8, 64, window=128, sinks=True),  # gpt-oss
    AttentionCase(64, 8, 64, sinks=True),
    AttentionCase(4, 1, 256, window=512),  # Gemma 3 1B
    AttentionCase(16, 8, 256, window=100, softcap=50.0),  # Gemma 2, with a window that is no number of pages
    AttentionCase(32, 8, 128, window=1000),  # Mistral
    AttentionCase(32, 32, 96, window=33),  # Phi-3
    AttentionCase(16, 1, 128, window=1, softcap=3.0, sinks=True),
    AttentionCase(48, 1, 64, positions=(5, 4000), window=3000, softcap=20.0, sinks=True),
    AttentionCase(40, 8, 128, positions=(777,) * 17),
]
