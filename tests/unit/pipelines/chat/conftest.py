"""A tiny language model and its lane, for the tests of the chat lane."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.chat.lane import ChatLane
from tests.support.lanes.tiny_chat import tiny_lane, tiny_model


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture
def lane(model: Any) -> ChatLane:
    return tiny_lane(model)
