"""The tables of the rows' pages, one for each kind of layers, and the memory from which a step copies them.

transformers keeps the pages of each kind of layers in an allocator of its own. Layers that attend to the whole text
have a page for every so many tokens; those with a sliding window write over their oldest tokens (`pages.Layer`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor
from transformers.generation.continuous_batching.cache_allocators import FullAttentionCacheAllocator

from pipelines.chat.decode.pages import Layer


class PageTable:
    """Of the layers of one allocator: the host's copy of each row's pages."""

    def __init__(self, allocator: Any, max_length: int) -> None:
        """max_length: tokens of the longest sequence."""
        self._allocator = allocator
        page_tokens = int(allocator.tokens_per_page)
        window = getattr(allocator, "sliding_window", None)
        self.window = None if window is None else int(window)
        self.n_columns = -(-min(max_length, self.window or max_length) // page_tokens)
        # A block is one page of each layer in a row, keys before values, and the tensors of a layer begin at its own.
        self._pages_of_block = int(allocator.block_physical_stride) // page_tokens
        self.trash_page = int(allocator.write_trash_index) // page_tokens  # padded rows write there

    def put_on(self, host: np.ndarray[Any, Any]) -> None:
        """host: (columns, max_rows) int32, where the table is to be."""
        self.host = host
        self.clear_rows(0)

    def clear_rows(self, first: int) -> None:
        """From this row on, no row has a sequence."""
        self.host[0, first:] = self.trash_page

    def fill_row(self, row: int, sequence_id: str) -> None:
        blocks = self._allocator.block_table[sequence_id]
        self.host[: len(blocks), row] = [block * self._pages_of_block for block in blocks]

    def layers(self, table: Tensor) -> Iterable[tuple[int, Layer]]:
        """Each layer with its index in the model. table: as `host`, on the device."""
        for index in self._allocator.layer_indices:
            # The allocator of sliding windows has these views, too, and refuses to give them to other kernels.
            keys, values = FullAttentionCacheAllocator.get_cache_for_block_table(self._allocator, index)
            yield index, Layer(keys, values, table, self.window)


def page_tables(cache: Any, max_length: int) -> list[PageTable]:
    """Of all allocators, those that are never longer than a window first: the last one alone grows with the texts."""
    tables = [PageTable(allocator, max_length) for allocator in cache.cache_allocators.values()]
    return sorted(tables, key=lambda table: table.n_columns)
