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

PAGE = "tests/live/page/"


def pytest_collection_finish() -> None:
    """Exempts what is imported from garbage collection, as the server does: each lane that is closed collects once."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spreads the modules with a real server over the first half of the run.

    They wait much, and two of them at once are in each other's way. The last ones would run while other workers idle.
    """
    modules: dict[str, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(PAGE if item.nodeid.startswith(PAGE) else item.nodeid.partition("::")[0], []).append(item)
    live = [module for module in modules if module.startswith("tests/live/")]
    others = sorted((module for module in modules if module not in live), key=lambda module: -len(modules[module]))
    order, apart = [], max(1, len(others) // (2 * len(live) + 1))
    for first in range(0, max(len(others), apart * len(live)), apart):
        order += [*live[first // apart :][:1], *others[first : first + apart]]
    items[:] = [item for module in order for item in modules[module]]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Sends all tests of the page to one worker, because they share one server and one browser."""
    from xdist.scheduler import LoadScopeScheduling

    class PageInOneScope(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return PAGE if nodeid.startswith(PAGE) else str(super()._split_scope(nodeid))

    return PageInOneScope(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Restores the root logger: a command run in this process makes it log to a stderr that is closed afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
