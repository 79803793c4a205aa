"""For the tests that run models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """With two threads, which wait for each other at every tiny operation, the tests take minutes on a busy machine."""
    import torch  # only here: most tests of the server need no torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
