"""Has files decoded by processes of their own (`decode_worker.py`), which are started at their first use.

A process that crashes, or takes too long, is replaced by another one. `decode` may be called on the event loop;
everything else runs on the threads here, one for each process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import imageio_ffmpeg

from server.errors import Unavailable
from server.jobs.inputs.decoded import Decoded, Refused

logger = logging.getLogger(__name__)

PROCESSES = 2  # so that a clip does not keep a picture waiting
WALL_S = 60.0  # for one file, on a busy machine; the process itself limits its processor time
TOO_MUCH = "a file that can be read in less time"
COMMAND = (sys.executable, "-m", "server.jobs.inputs.decode_worker")
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")  # of the environment; the rest may hold secrets


class Decoder:
    def __init__(
        self, n_processes: int = PROCESSES, *, wall_s: float = WALL_S, command: Sequence[str] = COMMAND
    ) -> None:
        self._command = command
        self._wall_s = wall_s
        self._executor = ThreadPoolExecutor(n_processes, thread_name_prefix="inputs")
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()  # the one used last is warm
        self._all: set[_Process] = set()
        self._lock = threading.Lock()  # for `_all` and `_closed`, which several threads change
        self._closed = False

    async def decode(self, mime_type: str, source: Path, target: Path) -> Decoded:
        """Reads the file at `source` and writes it to `target` in the form in which it is kept.

        Raises `Refused`, OSError for a fault of the disk, and `Unavailable` when no process can be started, or this is
        closed.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, self._decode, mime_type, source, target)
        except RuntimeError as error:  # of an executor that was shut down
            raise Unavailable("The server is stopping.", retry_after_s=5) from error

    def close(self) -> None:
        """Ends the processes at once. Idempotent."""
        with self._lock:
            self._closed = True
            processes = list(self._all)
        for process in processes:
            process.end()
        self._executor.shutdown(cancel_futures=True)
        for process in processes:
            process.release()

    def _decode(self, mime_type: str, source: Path, target: Path) -> Decoded:
        process = self._take()
        was_used = process.was_used
        try:
            decoded = process.decode(mime_type, source, target, self._wall_s)
        except _Ended as ended:
            self._drop(process)
            if was_used and not isinstance(ended, _TookTooLong):  # perhaps not because of this file
                return self._decode(mime_type, source, target)
            logger.warning("a file ended the process that decodes", extra={"reason": str(ended), "type": mime_type})
            raise Refused(TOO_MUCH) from ended
        except (Refused, OSError):
            self._idle.put(process)
            raise
        except BaseException:
            self._drop(process)
            raise
        self._idle.put(process)
        return decoded

    def _take(self) -> _Process:
        with suppress(queue.Empty):
            while True:
                process = self._idle.get_nowait()
                if process.is_alive:
                    return process
                self._drop(process)  # it was ended from outside while it was idle
        with self._lock:
            if self._closed:
                raise Unavailable("The server is stopping.", retry_after_s=5)
            try:
                process = _Process([*self._command, imageio_ffmpeg.get_ffmpeg_exe()])
            except (OSError, RuntimeError) as error:  # RuntimeError: there is no ffmpeg
                logger.exception("the process that decodes was not started")
                raise Unavailable("Files cannot be decoded at the moment.", retry_after_s=5) from error
            self._all.add(process)
            return process

    def _drop(self, process: _Process) -> None:
        process.end()
        process.release()
        with self._lock:
            self._all.discard(process)


class _Ended(Exception):
    """The process has ended, or was ended, before it answered."""


class _TookTooLong(_Ended):
    pass


class _Process:
    """One process. A thread at a time."""

    def __init__(self, command: Sequence[str]) -> None:
        """Raises OSError when it cannot be started."""
        self.was_used = False
        environment = {name: value for name, value in os.environ.items() if name in KEPT}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # and so with a process group of its own, to which its ffmpeg belongs
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def decode(self, mime_type: str, source: Path, target: Path, wall_s: float) -> Decoded:
        """Raises `Refused`, `_Ended`, and OSError for a fault of the disk."""
        assert self._process.stdin is not None
        self.was_used = True
        task = {"mime_type": mime_type, "source": str(source), "target": str(target)}
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise _Ended("it was gone") from error
        reply = json.loads(self._read_line(time.monotonic() + wall_s))
        if "must_be" in reply:
            raise Refused(reply["must_be"])
        if "failed" in reply:
            raise OSError(reply["failed"])
        decoded = reply["decoded"]
        return Decoded(**decoded | {"warnings": tuple(decoded["warnings"])})

    def _read_line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor, line = self._process.stdout.fileno(), b""
        readable = select.poll()  # and not `select`, which takes descriptors below 1024 alone
        readable.register(descriptor, select.POLLIN)
        while not line.endswith(b"\n"):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not readable.poll(left_s * 1000):
                raise _TookTooLong("it took too long")
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                raise _Ended(f"it ended with code {self._process.wait()}")
            line += piece
        return line

    def end(self) -> None:
        """Ends the process and its ffmpeg. Any thread; the thread that waits for an answer then gets `_Ended`."""
        with suppress(ProcessLookupError, PermissionError):  # nothing of its group is left
            os.killpg(self._process.pid, signal.SIGKILL)

    def release(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # bytes that were not written any more
                    pipe.close()
