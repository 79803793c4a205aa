"""Looks every few seconds whether what the server accepts can be kept: room, folders that take files, the job store.

Event loop; the disk on a thread of its own, because a file system that does not answer must hold up nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection

from server.errors import Unavailable
from server.store.database import Database
from server.units import size

logger = logging.getLogger(__name__)

LOOK_S, LOOK_AGAIN_S = 5.0, 1.0  # between two looks; after one that found a fault
ANSWER_S = 10.0  # a disk or a store that has not answered by then does not work
FLOOR_SHARE = 0.02  # of a small disk, instead of a floor in bytes that would be most of it
LEAST_INODES = 64
PROBE_BYTES = 4096


def room_fault(folder: Path, floor_bytes: int) -> str | None:
    """Why the folder's file system has too little room, or None. Raises `OSError`."""
    disk = os.statvfs(folder)
    free, floor = disk.f_bavail * disk.f_frsize, min(floor_bytes, int(FLOOR_SHARE * disk.f_blocks * disk.f_frsize))
    if free < floor:
        return f"the disk of the data folder is full ({size(free)} free, {size(floor)} are needed)"
    if disk.f_files and disk.f_favail < LEAST_INODES:
        return "the disk of the data folder can hold no more files"
    return None


def write_fault(folder: Path) -> OSError | None:
    """Why nothing can be written into the folder, or None."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, bytes(PROBE_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)
    except OSError as error:
        return error
    return None


class StorageWatch:
    def __init__(self, data_dir: Path, folders: Sequence[Path], database: Database, floor_bytes: int) -> None:
        """folders: below the data folder, made now, and again when somebody has removed them. Raises `OSError`."""
        for folder in folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._data_dir, self._folders = data_dir, folders
        self._database = database
        self._floor_bytes = floor_bytes
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="storage-watch")
        self._looking: asyncio.Future[str | None] | None = None
        self._woken = asyncio.Event()
        self.reason: str | None = None  # why nothing may be accepted

    async def run(self) -> None:
        """Looks for ever, and at once when a write to the store has failed."""
        loop = asyncio.get_running_loop()

        def store_failed() -> None:
            loop.call_soon_threadsafe(self._woken.set)

        self._database.failed = store_failed
        while True:
            self._woken.clear()
            await self.look()
            if self.reason is not None:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._woken.wait()

    async def look(self) -> None:
        reason = await self._disk_fault() or await self._store_fault()
        if reason != self.reason:
            if reason is None:
                logger.info("the storage works again")
            else:
                logger.error("nothing is accepted", extra={"reason": reason})
        self.reason = reason

    def close(self) -> None:
        self._disk.shutdown(wait=False, cancel_futures=True)

    async def _disk_fault(self) -> str | None:
        loop = asyncio.get_running_loop()
        if self._looking is None:
            self._looking = loop.run_in_executor(self._disk, self._look_at_disk)
        try:
            reason = await asyncio.wait_for(asyncio.shield(self._looking), ANSWER_S)
        except TimeoutError:
            return "the disk of the data folder does not answer"
        self._looking = None
        return reason

    def _look_at_disk(self) -> str | None:
        try:
            for folder in self._folders:
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    logger.warning(
                        "a folder was removed while the server ran; it is made again", extra={"folder": folder.name}
                    )
            if (reason := room_fault(self._data_dir, self._floor_bytes)) is not None:
                return reason
            fault = write_fault(self._data_dir)
        except OSError as error:
            fault = error
        return (
            None if fault is None else f"the data folder cannot be written ({fault.strerror or type(fault).__name__})"
        )

    async def _store_fault(self) -> str | None:
        try:
            await asyncio.wait_for(self._database.write(_nothing), ANSWER_S)
        except Unavailable:
            return "the job store cannot be written"
        except TimeoutError:
            return "the job store does not answer"
        return None


def _nothing(conn: Connection) -> None:
    """A write that has to take the store's lock, as any other."""
