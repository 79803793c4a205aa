"""The composition root: builds store, catalogue, engines, service and app, and serves them on an inherited socket.

Main thread of the server process.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pynvml
from sqlalchemy import Connection

from models.catalogue import Catalogue, is_built_in
from models.errors import ModelsError, StillRead
from models.loading.prompt_reader import PromptReader
from models.loading.text_reader import TextReader
from models.lora_files import LoraFolder
from models.reading.isolated_reader import IsolatedReader
from pipelines import child_process
from pipelines.fault_points import reach
from server.accounts.auth import Authenticator, write_local_key
from server.accounts.quotas import BurstLimiter
from server.api.app import create_app
from server.fleet.fleet import Fleet
from server.jobs.artifacts import Artifacts, load_or_create_secret
from server.jobs.crashes import Crashes
from server.jobs.inputs.decoder import Decoder
from server.jobs.webhooks import Webhooks
from server.library.folder_watcher import FolderWatcher
from server.library.library import Library
from server.library.pulls import Pulls
from server.marks import MARKS, Marks, write_faults
from server.process import data_folder
from server.process.banner import print_banner
from server.process.build_engines import make_fleet, memory_requirements
from server.process.build_service import ServiceOptions, build_service
from server.process.descriptors import TooFewDescriptors, for_connections, raise_limit
from server.process.draining_server import DrainingServer, uvicorn_config
from server.process.hardware import Machine, NoSuchDevice, auto_dtype, find_machines
from server.process.host_memory import HostMemory
from server.process.libraries import import_libraries, stop_compilers
from server.process.pools import Pools
from server.process.settings import Settings
from server.process.steady_clock import SteadyClock
from server.process.storage_watch import StorageWatch
from server.process.visible_gpus import visible_gpus
from server.process.watchdog import Watchdog
from server.service.learned import LearnedValues, measurement_key
from server.service.prompts import Prompts
from server.service.texts import Texts
from server.store.database import Database
from server.store.keys import SCOPES, create_key, list_keys
from server.store.opening import StoreUnusable

logger = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
ENGINE_DEAD = 1  # exit code: a bug ended the device thread; the supervisor starts another process
SWITCH_S = 0.001  # the event loop waits at most this long for a device thread that computes in Python; by default 5 ms
READING_S = 3.0  # most seconds that a start or a change waits for models that are still being read


def run(settings: Settings, sock: socket.socket, heartbeat_fd: int | None) -> int:
    """Serve until a signal stops the server; returns the exit code. Raises `StoreUnusable` if a restart cannot help."""
    data_folder.prepare(settings.data_dir, functools.partial(_beat, heartbeat_fd))
    try:
        machines = find_machines(
            settings.device,
            settings.memory_budget,
            settings.parking_budget,
            gpus=visible_gpus(pynvml, os.environ),
            host_bytes=HostMemory().total_bytes,
        )
    except NoSuchDevice as error:
        raise StoreUnusable(str(error)) from None
    try:
        n_descriptors = raise_limit()
    except TooFewDescriptors as error:
        raise StoreUnusable(str(error)) from None
    child_process.prepare()
    database = Database(settings.store_url)
    database.start()
    try:
        sys.setswitchinterval(SWITCH_S)
        return asyncio.run(_serve(settings, machines, database, sock, heartbeat_fd, n_descriptors))
    finally:
        database.close()


async def _serve(
    settings: Settings,
    machines: Sequence[Machine],
    database: Database,
    sock: socket.socket,
    heartbeat_fd: int | None,
    n_descriptors: int,
) -> int:
    reader = IsolatedReader(settings.cache_dir, auto_dtype(machines), settings.data_dir / "models-read.json")
    catalogue = _catalogue(settings, machines, reader)
    clock = SteadyClock()
    crashes = Crashes(settings.data_dir, clock, lambda model: _files_of(catalogue, model))
    await asyncio.to_thread(crashes.judge)
    marks = Marks(settings.data_dir / MARKS)
    write_faults(marks.folder)
    pools = Pools()
    prompts = Prompts(
        PromptReader(prepare=import_libraries, is_trusted=is_built_in), pools.prompts, pools.grammars, _reading(marks)
    )
    texts = Texts(TextReader(prepare=import_libraries, is_trusted=is_built_in), pools.texts, _reading(marks))
    learned = LearnedValues(database, clock)
    learned.load()
    folders = [settings.data_dir / name for name in ("outputs", "unfinished", "inputs", "pulls")]
    storage = StorageWatch(settings.data_dir, folders, database, settings.min_free_disk)
    fleet = make_fleet(settings, machines, catalogue, learned, lambda event: service.dispatch.handle(event), marks)
    service = build_service(
        ServiceOptions(
            plans=settings.plans,
            queue_size=settings.queue_size,
            max_queued_per_key=settings.max_queued_per_key,
            output_retention=timedelta(hours=settings.output_retention_h),
            job_retention=timedelta(days=settings.job_retention_days),
            file_retention=timedelta(hours=settings.file_retention_h),
            system_prompt=settings.system_prompt,
            keep_alive_s=settings.keep_alive,
            auto_dtype=auto_dtype(machines),
            fetch_images=settings.fetch_images,
            image_networks=settings.image_networks,
        ),
        database=database,
        catalogue=catalogue,
        engine=fleet,
        requirements=memory_requirements(settings, machines, learned),
        learned=learned,
        prompts=prompts,
        texts=texts,
        artifacts=Artifacts(settings.data_dir, pools.artifacts, clock, marks),
        decoder=Decoder(),
        data_dir=settings.data_dir,
        webhooks=Webhooks(
            database,
            secret=load_or_create_secret(settings.data_dir / "webhook-secret"),
            clock=clock,
            allowed_networks=settings.webhook_networks,
        ),
        loras=LoraFolder(settings.data_dir / "loras"),
        burst_limiter=BurstLimiter(time.monotonic),
        clock=clock,
        storage_fault=lambda: storage.reason,
        crashes=crashes,
    )
    toml = settings.data_dir / "models.toml"
    library = Library(
        catalogue=catalogue, toml=toml, engine=fleet, cache_dir=settings.cache_dir, check_here=reader.check
    )
    pulls = Pulls(
        library=library,
        folder=settings.data_dir / "pulls",
        base_dir=settings.data_dir,
        cache_dir=settings.cache_dir,
        clock=clock,
        private=settings.pull_private_urls,
    )
    app = create_app(
        service=service,
        library=library,
        pulls=pulls,
        authenticator=Authenticator(database, local_key=write_local_key(settings.data_dir)),
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
        body_memory_bytes=settings.body_memory,
        ready=lambda: fleet.not_ready_reason or storage.reason,
    )
    chats = service.chats.running_chats

    def stop_serving() -> None:
        chats.fail_all("The server is shutting down.")
        service.events.close()

    server = DrainingServer(
        uvicorn_config(app, settings.trusted_proxies),
        fleet,
        settings.shutdown_grace_s,
        stop_serving,
        marks.folder,
        max_descriptors=for_connections(n_descriptors),
        proxies=settings.trusted_proxies,
    )
    await service.model_overrides.restore()
    for aside in crashes.set_aside():
        fleet.send(aside)
    fleet.start()
    # After a crash nothing is done that nobody asks for.
    if not crashes.known and (chat_model := catalogue.default_for("chat")) is not None:
        with suppress(StillRead):
            prompts.open_early(catalogue.get(chat_model))
    await service.recovery.recover()
    first_key = await database.write(_first_key)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    places = [settings.data_dir / "models", *settings.models_dirs, toml]

    async def refresh() -> None:
        await library.refresh()
        service.recovery.resume()

    watcher = FolderWatcher(places, refresh, library.places, states=reader.states, is_settled=lambda: reader.is_settled)
    background = [asyncio.create_task(loop) for loop in (pulls.run(), watcher.run(), storage.run())]
    for task in background:
        task.add_done_callback(_log_end)
    print_banner(sock, machines, catalogue.specs(), first_key)
    watchdog = Watchdog(fleet, marks, settings.step_timeout_s, chats)
    code = await _watch(watchdog, fleet, server, serving, heartbeat_fd)
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    storage.close()
    await service.results.close(server.grace_left_s)
    await learned.close()
    service.input_files.close()
    child_process.end_all()  # such as an encoder that a thread of the pool waits for
    pools.close()
    reader.close()
    stop_compilers()
    return code


def _beat(heartbeat_fd: int | None) -> None:
    if heartbeat_fd is not None:
        os.write(heartbeat_fd, b".")


def _log_end(task: asyncio.Task[None]) -> None:
    """Log a background task that ended before the server, which is a bug; jobs are still served."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a background task of the catalogue ended", exc_info=error)


async def _watch(
    watchdog: Watchdog, engine: Fleet, server: DrainingServer, serving: asyncio.Task[None], heartbeat_fd: int | None
) -> int:
    """Send heartbeats until the HTTP server ends; returns the exit code. A dead engine ends it with `ENGINE_DEAD`."""
    code = 0
    while not serving.done():
        reach("heartbeat")
        _beat(heartbeat_fd)
        await watchdog.look()
        if not engine.alive and not engine.draining:
            logger.error("the engine is dead, leaving", extra={"reason": engine.not_ready_reason})
            server.should_exit, code = True, ENGINE_DEAD
        await asyncio.wait([serving], timeout=HEARTBEAT_S)
    serving.result()
    return code


def _files_of(catalogue: Catalogue, model: str) -> str:
    try:
        return measurement_key(catalogue.get(model).path, "", "")
    except ModelsError:
        return ""


def _reading(marks: Marks) -> Callable[[str, str], AbstractContextManager[None]]:
    """Marks what the threads do that read prompts and texts, which begins once the libraries are imported."""
    import_once = functools.cache(import_libraries)

    @contextmanager
    def during(action: str, model: str) -> Iterator[None]:
        import_once()
        with marks.during(action, model):
            yield

    return during


def _first_key(conn: Connection) -> str | None:
    """Make an enterprise key with all scopes if the store has no key yet; returns its text, which is shown once."""
    if list_keys(conn):
        return None
    _, text = create_key(conn, "first", "enterprise", SCOPES, datetime.now(UTC))
    return text


def _catalogue(settings: Settings, machines: Sequence[Machine], reader: IsolatedReader) -> Catalogue:
    try:
        return Catalogue.open(
            data_dir=settings.data_dir,
            cache_dir=settings.cache_dir,
            models_dirs=settings.models_dirs,
            auto_dtype=auto_dtype(machines),
            defaults=settings.default_models,
            reader=reader,
            wait_s=READING_S,
        )
    except ModelsError as error:
        raise StoreUnusable(f"{error}") from None
