"""The front end with its fake engine on a real socket, in a thread, for blocking clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.http.front import Front, front
from tests.support.http.http_front import finish_jobs, listening


class Served:
    """A front end in another thread, whose event loop owns the engine: calls to the engine go through `soon`."""

    def __init__(self, f: Front, loop: asyncio.AbstractEventLoop, url: str) -> None:
        self.f = f
        self.url = url
        self._loop = loop

    def soon(self, function: Any, *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    @contextmanager
    def pulling(self) -> Iterator[None]:
        """Runs the pulls while the block executes."""
        running = asyncio.run_coroutine_threadsafe(self.f.app.state.pulls.run(), self._loop)
        yield
        running.cancel()
        with suppress(CancelledError):
            running.exception()

    def run_every_job(self) -> None:
        """Makes the fake engine complete every image and video job as soon as it is submitted."""
        finish_jobs(self.f)


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[Served]:
    ready = threading.Event()
    started: list[tuple[Served, asyncio.Event]] = []

    async def serve() -> None:
        async with front(folder, **options) as f, listening(f) as url:
            stopped = asyncio.Event()
            started.append((Served(f, asyncio.get_running_loop(), url), stopped))
            ready.set()
            await stopped.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    server, stopped = started[0]
    try:
        yield server
    finally:
        server.soon(stopped.set)
        thread.join()
