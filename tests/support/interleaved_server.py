"""The service, the store, a fleet and its engines on one thread. A test decides what happens next, and nothing races.

Real are the service, the store with its group commits, the files, the encoder, the fleet, the scheduler, the executor
and the ledger; the lanes compute nothing. What other threads would do waits until the test lets it happen: a turn of an
engine, a commit, a job of the worker pool, a turn of the event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection

from models.lora_files import LoraFolder
from server.accounts.auth import ApiKey, Authenticator
from server.accounts.quotas import BurstLimiter
from server.fleet.fleet import Fleet
from server.jobs.artifacts import Artifacts
from server.jobs.crashes import Crashes
from server.jobs.inputs.decoder import Decoder
from server.jobs.webhooks import Webhooks
from server.process.build_service import ServiceOptions, build_service
from server.scheduling.actions import ModelFacts
from server.service.learned import LearnedValues
from server.service.prompts import Prompts
from server.service.texts import Texts
from server.store.database import MAX_BATCH, Database, _Work
from server.store.keys import create_key
from tests.fakes import FakePromptReader, FakeRequirements, FakeTextReader, small_catalogue
from tests.support.http.front import MORNING, Clock
from tests.support.stores import url_of
from tests.support.threadless_engines import ThreadlessEngine, ThreadlessEngines

T = TypeVar("T")

WEIGHT_BYTES = 100
DEVICES = 2


class HeldDatabase(Database):
    """Writes when it is asked to, on the calling thread."""

    held: list[_Work]

    def start(self) -> None:
        self.held = []
        super().start()

    def _put(self, work: Callable[[Connection], Any]) -> Future[Any]:
        self.held.append(item := _Work(work))
        return item.done

    def commit(self, most: int = MAX_BATCH) -> None:
        batch, self.held = self.held[:most], self.held[most:]
        if batch:
            self._commit([item for item in batch if item.done.set_running_or_notify_cancel()])

    async def read(self, work: Callable[[Connection], T]) -> T:
        return self.read_now(work)


class HeldPool(ThreadPoolExecutor):
    """Does a piece of work when it is asked to, on the calling thread."""

    def __init__(self) -> None:
        super().__init__(1)
        self.held: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        self.held.append((future, lambda: fn(*args, **kwargs)))
        return future

    def work(self, index: int = 0) -> None:
        """Do the piece of work at this place, of those that wait."""
        if not self.held:
            return
        future, run = self.held.pop(index % len(self.held))
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(run())
            except Exception as error:  # noqa: BLE001  # whoever waits for it gets it
                future.set_exception(error)


@dataclass
class InterleavedServer:
    """Open it on a running event loop, whose default executor it replaces."""

    folder: Path
    pool: HeldPool = field(default_factory=HeldPool)

    def __post_init__(self) -> None:
        asyncio.get_running_loop().set_default_executor(self.pool)
        facts = ModelFacts("painter", "image", need_bytes=WEIGHT_BYTES, max_running=2, keep_alive_s=float("inf"))
        self.threadless = ThreadlessEngines(lambda _: facts, capacity=1000, load_s=1.0, step_s=[1.0] * DEVICES)
        self.fleet = Fleet(
            [self.threadless.make] * DEVICES, lambda event: self.service.dispatch.handle(event), clock=self._now
        )
        self.database = HeldDatabase(url_of(self.folder))
        self.database.start()
        data, clock = self.folder / "data", Clock()
        crashes = Crashes(data, clock, lambda model: "")
        crashes.judge()
        requirements = FakeRequirements()
        requirements.needs["painter"] = WEIGHT_BYTES
        self.artifacts = Artifacts(data, self.pool, clock)
        self.service = build_service(
            ServiceOptions(),
            database=self.database,
            catalogue=small_catalogue(),
            engine=self.fleet,
            requirements=requirements,
            learned=LearnedValues(self.database, clock),
            prompts=Prompts(FakePromptReader(), self.pool),
            texts=Texts(FakeTextReader(), self.pool),
            artifacts=self.artifacts,
            decoder=Decoder(1),
            data_dir=data,
            webhooks=Webhooks(self.database, secret=bytes(32), clock=clock),
            loras=LoraFolder(self.folder / "loras"),
            burst_limiter=BurstLimiter(time.monotonic),
            clock=clock,
            crashes=crashes,
        )
        self.fleet.start()

    async def key(self) -> ApiKey:
        made = asyncio.ensure_future(
            self.database.write(lambda conn: create_key(conn, "k", "enterprise", {"use"}, MORNING)[1])
        )
        await self.loop_turns()
        self.database.commit()
        return await Authenticator(self.database, local_key=None).identify(f"Bearer {await made}")

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return asyncio.get_running_loop().create_task(work)

    async def loop_turns(self, n: int = 5) -> None:
        for _ in range(n):
            await asyncio.sleep(0)

    def engine_turns(self, n: int) -> None:
        """Turns of the engines that have something to do, of the one that is behind first."""
        for _ in range(n):
            if not (active := self._active()):
                return
            min(active, key=lambda engine: engine.clock.now).turn()

    async def settle(self) -> None:
        """Let everything happen that is to happen, until nothing is left."""
        while True:
            await self.loop_turns()
            if self._active():
                self.engine_turns(1)
            elif self.pool.held:
                self.pool.work()
            elif self.database.held:
                self.database.commit()
            elif self.service.results._tasks:
                await asyncio.sleep(0.001)  # a task that waits for a time, such as before it tries to write again
            else:
                return

    def files(self) -> set[str]:
        return {name for folder in ("outputs", "unfinished") for name in os.listdir(self.folder / "data" / folder)}

    def _active(self) -> list[ThreadlessEngine]:
        return [engine for engine in self.threadless.engines if not engine.waits or engine.has_messages]

    def _now(self) -> float:
        return self.threadless.clock()
