"""The whole front end with a real store and a fake engine, for tests over HTTP."""

from __future__ import annotations

import asyncio
import atexit
import functools
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from models.lora_files import LoraFolder
from server.accounts.auth import Authenticator
from server.accounts.quotas import BurstLimiter
from server.api.app import create_app
from server.jobs.artifacts import Artifacts
from server.jobs.crashes import Crashes
from server.jobs.inputs.decoder import Decoder
from server.jobs.webhooks import Webhooks
from server.library.library import Library
from server.library.pulls import Pulls
from server.process.build_service import ServiceOptions, build_service
from server.service.learned import LearnedValues
from server.service.prompts import Prompts
from server.service.service import Service
from server.service.texts import Texts
from server.store import usage
from server.store.keys import create_key
from tests.fakes import GIB, FakeEngine, FakePromptReader, FakeRequirements, FakeTextReader, small_catalogue
from tests.support.stores import open_store

MORNING = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
IMAGE = {"prompt": "A futuristic city at night", "type": "image"}
VIDEO = {"prompt": "Ocean waves at sunset", "type": "video"}


class Clock:
    def __init__(self, now: datetime = MORNING) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Front:
    app: FastAPI
    service: Service
    engine: FakeEngine
    artifacts: Artifacts
    database: Any
    clock: Clock
    client: httpx.AsyncClient
    keys: Mapping[str, str]  # plan → key
    data_dir: Path
    requirements: FakeRequirements
    prompt_reader: FakePromptReader

    async def get(self, path: str, key: str = "enterprise", **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=self.auth(key) | headers)

    async def post(self, path: str, body: Any = None, key: str = "enterprise", **headers: str) -> httpx.Response:
        if isinstance(body, bytes):
            all_headers = self.auth(key) | {"content-type": "application/json"} | headers
            return await self.client.post(path, content=body, headers=all_headers)
        return await self.client.post(path, json=body, headers=self.auth(key) | headers)

    async def delete(self, path: str, key: str = "enterprise") -> httpx.Response:
        return await self.client.delete(path, headers=self.auth(key))

    def auth(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys.get(key, key)}"}

    async def submit(self, key: str = "enterprise", **body: Any) -> str:
        reply = await self.post("/api/generate", IMAGE | body, key)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["jobId"])

    async def status(self, job_id: str, key: str = "enterprise") -> Any:
        reply = await self.get(f"/api/status/{job_id}", key)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def settle(self) -> None:
        """Waits until the effects of all events are on disk and in the store."""
        while self.service.results._tasks:
            await asyncio.wait(self.service.results._tasks)

    async def complete(self, key: str = "enterprise", **body: Any) -> Any:
        job_id = await self.submit(key, **body)
        self.engine.run(job_id)
        await self.settle()
        return await self.status(job_id, key)

    async def used(self, kind: str, plan: str = "free") -> int:
        key = await Authenticator(self.database, local_key=None).identify(f"Bearer {self.keys[plan]}")
        day = self.clock().date().isoformat()
        used = await self.database.read(lambda conn: usage.used_today(conn, key.id, day))
        return int(used[kind])


@asynccontextmanager
async def front(
    folder: Path,
    *,
    catalogue: Any = None,
    ready: Callable[[], str | None] = lambda: None,
    allowed_hosts: tuple[str, ...] = (),
    allowed_origins: tuple[str, ...] = (),
    keys: Mapping[str, str] | None = None,
    webhooks: Mapping[str, Any] = {},
    private_pulls: bool = False,
    usable_bytes: int = 8 * GIB,
    **options: Any,
) -> AsyncIterator[Front]:
    """Yields a front end. The same `folder` and `keys` again simulate a restart."""
    clock, engine, requirements = Clock(), FakeEngine(usable_bytes), FakeRequirements()
    prompt_reader = FakePromptReader()
    if keys is None:
        _put_empty_store(folder)
    with open_store(folder) as database, ThreadPoolExecutor(2) as pool:
        crashes = Crashes(folder / "data", clock, lambda model: "")
        crashes.judge()
        artifacts = Artifacts(folder / "data", pool, clock)
        catalogue = catalogue or small_catalogue()
        service = build_service(
            ServiceOptions(**options),
            database=database,
            catalogue=catalogue,
            engine=engine,
            requirements=requirements,
            learned=LearnedValues(database, clock),
            prompts=Prompts(prompt_reader, pool),
            texts=Texts(FakeTextReader(), pool),
            artifacts=artifacts,
            decoder=_decoder(),
            data_dir=folder / "data",
            webhooks=Webhooks(database, secret=bytes(32), clock=clock, **webhooks),
            loras=LoraFolder(folder / "loras"),
            burst_limiter=BurstLimiter(time.monotonic),
            clock=clock,
            crashes=crashes,
        )
        engine.deliver = service.dispatch.handle
        engine.start()
        if keys is None:
            keys = {plan: (await database.write(_new_key(plan, plan))) for plan in ("free", "pro", "enterprise")}
            keys["admin"] = await database.write(_new_key("admin", "enterprise", "admin"))
            keys["other"] = await database.write(_new_key("other", "enterprise"))
        library = Library(catalogue=catalogue, toml=folder / "models.toml", engine=engine, cache_dir=folder / "cache")
        pulls = Pulls(
            library=library,
            folder=folder / "pulls",
            base_dir=folder,
            cache_dir=folder / "cache",
            clock=clock,
            private=private_pulls,
        )
        app = create_app(
            service=service,
            library=library,
            pulls=pulls,
            authenticator=Authenticator(database, local_key=None),
            ready=ready,
            allowed_hosts=allowed_hosts,
            allowed_origins=allowed_origins,
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:3001") as client:
            parts = app, service, engine, artifacts, database, clock, client, keys, folder / "data"
            yield Front(*parts, requirements, prompt_reader)
            await service.results.close(2)


@functools.cache
def _decoder() -> Decoder:
    """Returns one for all front ends of this process, because its own process takes a while to start."""
    decoder = Decoder(1)
    atexit.register(decoder.close)
    return decoder


def _put_empty_store(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_empty_store(), folder / "store.db")


@functools.cache
def _empty_store() -> Path:
    """Returns a migrated store that is created once, because the migration takes longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="agentname-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with open_store(folder):
        pass
    return folder / "store.db"


def _new_key(name: str, plan: str, *scopes: str) -> Callable[[Any], str]:
    return lambda conn: create_key(conn, name, plan, {"use", *scopes}, MORNING)[1]
