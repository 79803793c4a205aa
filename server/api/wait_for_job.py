"""Routes that answer with a finished job: they wait for its end, and cancel it when their client leaves first."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

from starlette.types import Receive

from server.accounts.auth import ApiKey
from server.http.sse import disconnected, stop
from server.jobs.job_view import JobView
from server.service.service import Service


async def finished(service: Service, key: ApiKey, job_id: str, receive: Receive) -> JobView | None:
    """Its status at its end; None when the client went away, and then it is canceled."""
    ending = asyncio.ensure_future(service.finished(key, job_id))
    leaving = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({ending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            return await ending
    finally:
        await stop(ending, leaving)
    await service.cancel(key, job_id)
    return None


async def base64_of(path: Path) -> str:
    """Of a whole file, read beside the event loop."""
    return await asyncio.to_thread(lambda: base64.b64encode(path.read_bytes()).decode())
