"""The front end with its fake engine behind a real socket, in a thread: for clients that are plain code."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn

from server.http.http11 import Http11
from server.job import Job
from tests.support.front import Front, front


class Served:
    """`url` and `f`. What touches the engine goes through `soon`: it belongs to the server's loop."""

    def __init__(self, f: Front, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self.f = f
        self.url = f"http://127.0.0.1:{port}"
        self._loop = loop

    def soon(self, function: Any, *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    @contextmanager
    def pulling(self) -> Iterator[None]:
        """Pulls are carried out meanwhile."""
        running = asyncio.run_coroutine_threadsafe(self.f.app.state.pulls.run(), self._loop)
        yield
        running.cancel()
        with suppress(CancelledError):
            running.exception()

    def run_every_job(self) -> None:
        """From now on each picture and clip is made as soon as it is asked for."""
        submit = self.f.engine.submit

        def submit_and_run(job: Job, need_bytes: int = 0) -> None:
            submit(job, need_bytes)
            if job.type != "chat":
                self._loop.call_soon(self.f.engine.run, job.id)

        self.f.engine.submit = submit_and_run  # type: ignore[method-assign]  # one more thing it does


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[Served]:
    ready, over = threading.Event(), threading.Event()
    made: list[Served] = []
    stops: list[Any] = []

    async def serve() -> None:
        async with front(folder, **options) as f:
            with socket.create_server(("127.0.0.1", 0)) as sock:
                config = uvicorn.Config(f.app, http=Http11, ws="none", lifespan="on", log_config=None)
                server = uvicorn.Server(config)
                server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # not the main thread
                serving = asyncio.create_task(server.serve(sockets=[sock]))
                loop = asyncio.get_running_loop()
                made.append(Served(f, loop, sock.getsockname()[1]))
                stops.append(lambda: setattr(server, "should_exit", True))
                ready.set()
                await serving
        over.set()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(30)
    try:
        yield made[0]
    finally:
        stops[0]()
        thread.join()
