"""What the attention of a decode step reads besides its arguments: the paged KV cache and where each row's pages are.

A thread runs one decode forward at a time, and the attention functions deep inside it find these tensors here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layer:
    """The part of the KV cache that belongs to one layer.

    keys, values: (pages, page_tokens, kv_heads, head_dim).
    table: (columns, max_rows) int32, the numbers of each row's pages; all layers of a kind have the same one. It is
        transposed so that the columns in use are one piece of memory. Unused entries are the number of a page that may
        be read.
    window: the row's new token attends to so many tokens, itself among them, and its pages are a ring of so many slots:
        token p is in slot p % window. None: it attends to all tokens, and token p is in slot p.
    """

    keys: Tensor
    values: Tensor
    table: Tensor
    window: int | None = None

    @property
    def page_tokens(self) -> int:
        return self.keys.shape[1]


@dataclass(slots=True)
class Pages:
    """The KV cache of a model, and the rows of a decode step that read and extend it.

    layers: in the order in which the model runs them.
    positions: (max_rows,) int32, of each row's new token; it attends to no token after itself.
    """

    layers: Sequence[Layer]
    positions: Tensor
    n_rows: int = 0  # of the present forward
    n_columns: int = 0  # of each table that the present forward may read; kernels that read lengths do not need it
    next_layer: int = 0  # the next layer that will attend

    def take_layer(self) -> Layer:
        """The layer that attends now.

        Layers are counted as they come rather than asked for their index: to `torch.compile` the index would be a
        constant that is another one for each layer, and it would compile every layer anew.
        """
        self.next_layer += 1
        return self.layers[self.next_layer - 1]


# A custom operator gets tensors and numbers only, and the cache must not be among them: functionalization would copy
# it for every layer. So its owner puts it here for the duration of a forward. One per thread: one device each.
_present = threading.local()


@contextmanager
def reading(pages: Pages, n_rows: int, n_columns: int) -> Iterator[None]:
    """Attention of decode forwards in this block, on this thread, uses these pages."""
    pages.n_rows, pages.n_columns, pages.next_layer = n_rows, n_columns, 0
    _present.pages = pages
    try:
        yield
    finally:
        del _present.pages


def present_pages() -> Pages:
    pages: Pages = _present.pages
    return pages
