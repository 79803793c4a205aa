"""The HTTP server of the process: how uvicorn is set up, and what a request to stop does. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from server.fleet.fleet import Fleet
from server.http.front_door import FrontDoor
from server.http.http11 import Http11
from server.marks import note_stop

LAST_WRITES_S = 1.0  # after the grace


class DrainingServer(FrontDoor):
    """Drains the engines at the first signal, while HTTP still answers (new jobs get 502); ends at the second."""

    def __init__(
        self,
        config: uvicorn.Config,
        engine: Fleet,
        grace_s: float,
        stop_serving: Callable[[], None],
        marks: Path,
        *,
        max_descriptors: int,
        proxies: Sequence[str],
    ) -> None:
        """stop_serving: ends the streams that are open after the drain. marks: the folder of `server.marks`."""
        super().__init__(config, max_descriptors=max_descriptors, proxies=proxies)
        self._marks = marks
        self._engine = engine
        self._grace_s = grace_s
        self._stop_serving = stop_serving
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None
        self._drain_began: float | None = None

    @property
    def grace_left_s(self) -> float:
        """Of the time that an end may take, of which draining has taken a part; at least what a write takes."""
        used_s = 0.0 if self._drain_began is None else self._loop.time() - self._drain_began
        return max(LAST_WRITES_S, self._grace_s - used_s)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._draining is not None:
            self.should_exit = self.force_exit = True
            return
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        if self._draining is None:
            note_stop(self._marks)
            self._drain_began = self._loop.time()
            self._draining = asyncio.create_task(self._drain_and_leave())

    async def _drain_and_leave(self) -> None:
        await self._engine.drain(self._grace_s)
        self._stop_serving()
        self.should_exit = True


def uvicorn_config(app: FastAPI, trusted_proxies: Sequence[str]) -> uvicorn.Config:
    """trusted_proxies: addresses and networks whose X-Forwarded-Proto is believed."""
    return uvicorn.Config(
        app,
        http=Http11,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),  # any client can send X-Forwarded-Proto
        forwarded_allow_ips=list(trusted_proxies),
        timeout_graceful_shutdown=3,  # without a limit one open stream keeps the process alive
    )
