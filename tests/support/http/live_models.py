"""Runs the whole server with models of a test's own, and checks that it stops in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.http.live_server import LiveServer


@contextmanager
def serving(folder: Path, entries: Sequence[Mapping[str, Any]]) -> Iterator[LiveServer]:
    """folder: gets the data directory. entries: bodies of POST /api/models, each with a `source` inside `folder`."""
    live = LiveServer(folder / "data").start()
    try:
        for entry in entries:
            added = live.post("/api/models", {**entry, "source": str(folder / entry["source"])})
            assert added.status == 200, added.body
        yield live
    finally:
        code = live.stop()
    assert code == 0
