"""For all tests: Hypothesis without a deadline, because a busy machine is no bug; it still stops after its 100 examples."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("agentname", deadline=None)
settings.load_profile("agentname")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command run inside the test process sets logging up on the runner's stderr, which is closed when it ends."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
