"""For all tests: Hypothesis without deadlines, quick garbage collection, one xdist worker for the page."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# A busy machine misses deadlines without a bug. A property still ends after its 100 examples.
settings.register_profile("agentname", deadline=None)
settings.load_profile("agentname")


def pytest_collection_finish() -> None:
    """Exempts what is imported from garbage collection, as the server does: each lane that is closed collects once."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Sends all tests of the page to one worker, because they share one server and one browser."""
    from xdist.scheduler import LoadScopeScheduling

    class PageInOneScope(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            page = "tests/live/page/"
            return page if nodeid.startswith(page) else str(super()._split_scope(nodeid))

    return PageInOneScope(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Restores the root logger: a command run in this process makes it log to a stderr that is closed afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
