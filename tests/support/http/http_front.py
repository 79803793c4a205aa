"""The front end on a real socket, for clients in other processes and threads."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from server.http.front_door import FrontDoor
from server.job import UNSTORED, Job
from server.process.draining_server import uvicorn_config
from tests.support.http.front import Front


def finish_jobs(f: Front) -> None:
    """Makes the fake engine complete every image and video job as soon as it is submitted."""
    submit = f.engine.submit

    def submit_and_run(job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        submit(job, need_bytes, at)
        if job.type not in UNSTORED:
            asyncio.get_running_loop().call_soon(f.engine.run, job.id)

    f.engine.submit = submit_and_run  # type: ignore[method-assign]  # wraps the method


@asynccontextmanager
async def listening(f: Front, trusted_proxies: Sequence[str] = ()) -> AsyncIterator[str]:
    """Serves with the configuration of the real server, and yields the URL "http://127.0.0.1:PORT"."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        config = uvicorn_config(f.app, trusted_proxies)
        config.timeout_graceful_shutdown = 1
        server = FrontDoor(config, max_descriptors=1000, proxies=trusted_proxies)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
