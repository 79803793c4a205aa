"""A tiny language model and its lane, for the tests of the chat lane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipelines.chat.lane import ChatLane
from tests.support.lanes.tiny_chat import tiny_lane, tiny_model


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """With two threads, which wait for each other at every tiny operation, the tests take minutes on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture
def lane(model: Any) -> ChatLane:
    return tiny_lane(model)
