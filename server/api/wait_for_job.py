"""For routes that reply with the result: waits until a job ends, and cancels it when the client disconnects first.

Event loop only.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

from starlette.types import Receive

from server.accounts.auth import ApiKey
from server.http.sse import unless_disconnected
from server.jobs.job_view import JobView
from server.service.service import Service


async def wait_for_job(service: Service, key: ApiKey, job_id: str, receive: Receive) -> JobView | None:
    """Returns the job's final status, or None when the client disconnected first and the job has been canceled."""
    view = await unless_disconnected(service.jobs.finished(key, job_id), receive)
    if view is None:
        await service.jobs.cancel(key, job_id)
    return view


async def read_base64(path: Path) -> str:
    """Returns the bytes of a file in base64, read on a worker thread."""
    return await asyncio.to_thread(lambda: base64.b64encode(path.read_bytes()).decode())
