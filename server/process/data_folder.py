"""Prepares the data folder before anything else is written there: room, permissions, what an earlier process left.

Main thread, before the store is opened.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from server.process.storage_watch import write_fault
from server.store.opening import StoreUnusable

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished"  # the folder of files that were being written
LEFT_OVER = ("*.new", "local-key.*", ".probe-*")
PRIVATE = ("agentname.db", "agentname.db-wal", "agentname.db-shm", "link-secret", "webhook-secret", "local-key")
LOOK_AGAIN_S = 1.0


def prepare(data_dir: Path, beat: Callable[[], None], wait: Callable[[float], None] = time.sleep) -> int:
    """Makes the folder usable, and waits while its disk is full. beat: tells the supervisor that this process lives.

    Returns the descriptor of a lock that keeps other servers out until this process ends. Raises `StoreUnusable` when
    waiting would not help.
    """
    told = False
    while (lock := _lock_if_room(data_dir)) is None:
        if not told:
            told = True
            text = "the disk of the data folder is full; the server starts when there is room"
            logger.error(text, extra={"folder": str(data_dir)})
        beat()
        wait(LOOK_AGAIN_S)
    _close_to_others(data_dir)
    return lock


def _lock_if_room(data_dir: Path) -> int | None:
    """The lock of a folder that can be written; None while its disk is full. Raises `StoreUnusable`."""
    try:
        return _usable(data_dir)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return None
        raise StoreUnusable(f"The data folder {data_dir} cannot be used: {error.strerror or error}.") from error


def _usable(data_dir: Path) -> int:
    """Returns the lock of a folder that can be written. Raises `OSError`."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = lock_of(data_dir)
    try:
        _remove_left_overs(data_dir)
        if (fault := write_fault(data_dir)) is not None:
            raise fault
    except BaseException:
        os.close(lock)
        raise
    return lock


def lock_of(data_dir: Path) -> int:
    """Takes the lock of the data folder until this process ends. Raises `StoreUnusable`, `OSError`."""
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StoreUnusable(f"Another server uses {data_dir}. Stop it, or give this one --data-dir.") from None
    return lock


def _remove_left_overs(data_dir: Path) -> None:
    """Removes what a process that was killed had not finished writing, which may be what has filled the disk."""
    left = [each for pattern in LEFT_OVER for each in data_dir.glob(pattern)]
    if (unfinished := data_dir / UNFINISHED).is_dir():
        left += unfinished.iterdir()
    for path in left:
        if path.is_file() or path.is_symlink():
            path.unlink(missing_ok=True)


def _close_to_others(data_dir: Path) -> None:
    """Takes other users' access to keys, prompts and results away, and says so."""
    for path, mode in ((data_dir, 0o700), *((data_dir / name, 0o600) for name in PRIVATE)):
        try:
            found = stat.S_IMODE(path.stat().st_mode)
            if found & 0o077:
                path.chmod(mode)
                logger.warning(
                    "other users could open this; it is closed to them", extra={"path": str(path), "mode": oct(found)}
                )
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreUnusable(
                f"{path} is open to other users, and that cannot be changed: {error.strerror}."
            ) from error
    if hasattr(os, "geteuid") and data_dir.stat().st_uid not in (os.geteuid(), 0):
        logger.warning("the data folder belongs to another user", extra={"folder": str(data_dir)})
