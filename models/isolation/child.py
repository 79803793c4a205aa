"""One process that answers questions until it ends, is ended, or takes too long. One thread at a time.

The question is a line of JSON on the child's standard input, and so is the answer on its standard output. What the
child does at the moment it may tell in lines before the answer (`serving.doing`); whoever waits learns it when the
child ends. `end` may be called on any thread.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pipelines.child_process import start

MAX_REPLY_BYTES = 64 << 20


class Ended(Exception):
    """The process has ended, or was ended, before it answered."""

    def __init__(self, reason: str, doing: str = "") -> None:
        super().__init__(reason)
        self.doing = doing  # what it said it was doing


class TookTooLong(Ended):
    pass


class Child:
    def __init__(self, command: Sequence[str], env: Sequence[str] = ()) -> None:
        """env: names of variables, see `child_process.environment`. Raises OSError when it cannot be started."""
        self.was_used = False
        self._process = start(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)  # a child that hangs does not read either

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, question: object, wall_s: float) -> Any:
        """Returns the answer. Raises `Ended`, and `TookTooLong` after `wall_s` seconds, and lets the child run on."""
        self.was_used = True
        deadline = time.monotonic() + wall_s
        self._write(json.dumps(question).encode() + b"\n", deadline)
        doing = ""
        left = bytearray()
        n_bytes = 0
        while True:
            at = left.find(b"\n")
            if at < 0:
                piece = self._read(deadline, doing)
                n_bytes += len(piece)
                if n_bytes > MAX_REPLY_BYTES:
                    raise Ended("it answered with too much", doing)
                left += piece
                continue
            line = bytes(left[:at])
            del left[: at + 1]
            try:
                answer = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise Ended("it answered with something else than JSON", doing) from error
            if isinstance(answer, dict) and answer.keys() == {"doing"}:
                doing = str(answer["doing"])
                continue
            return answer

    def _write(self, line: bytes, deadline: float) -> None:
        assert self._process.stdin is not None
        descriptor, view = self._process.stdin.fileno(), memoryview(line)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                self._wait(descriptor, select.POLLOUT, deadline, "")
            except OSError as error:
                raise Ended("it was gone") from error

    def _read(self, deadline: float, doing: str) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        self._wait(descriptor, select.POLLIN, deadline, doing)
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            raise Ended(f"it ended with code {self._process.wait()}", doing)
        return piece

    @staticmethod
    def _wait(descriptor: int, event: int, deadline: float, doing: str) -> None:
        ready = select.poll()  # and not `select`, which takes descriptors below 1024 alone
        ready.register(descriptor, event)
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not ready.poll(left_s * 1000):
            raise TookTooLong("it took too long", doing)

    def end(self) -> None:
        """Ends the process and its children. The thread that waits for an answer then gets `Ended`."""
        with suppress(ProcessLookupError, PermissionError):  # nothing of its group is left
            os.killpg(self._process.pid, signal.SIGKILL)

    def release(self) -> None:
        """Waits for the end of the process and closes the pipes; call it after `end`."""
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # bytes that were not written any more
                    pipe.close()
