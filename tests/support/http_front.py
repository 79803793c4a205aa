"""The front end on a real socket, for clients that are programs of their own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn

from server.job import Job
from server.process.main import uvicorn_config
from tests.support.front import Front


def finish_jobs(f: Front) -> None:
    """From now on every job ends by itself as soon as the engine has it."""
    submit = f.engine.submit

    def submit_and_run(job: Job, need_bytes: int = 0) -> None:
        submit(job, need_bytes)
        if job.type != "chat":
            asyncio.get_running_loop().call_soon(f.engine.run, job.id)

    f.engine.submit = submit_and_run  # type: ignore[method-assign]  # one more thing it does


@asynccontextmanager
async def listening(f: Front, trusted_proxies: Sequence[str] = ()) -> AsyncIterator[str]:
    """Its address, "http://127.0.0.1:PORT"; set up as the real server is."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        config = uvicorn_config(f.app, trusted_proxies)
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
