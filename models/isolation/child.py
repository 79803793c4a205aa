"""One process that answers questions until it ends, is ended, or takes too long. One thread at a time.

The question is a line of JSON on the child's standard input, and so is the answer on its standard output. What the
child does at the moment it may tell in lines before the answer (`serving.doing`); whoever waits learns it when the
child ends. A stranger's file may have taken the child over: whatever it writes, this process keeps no more of it than
is allowed, and believes no answer that has not the form that was asked for. `end` may be called on any thread.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pipelines.child_process import start

T = TypeVar("T")

MAX_REPLY_BYTES = 128 << 10  # the largest are a tenth; JSON takes up to 30 times as much memory once it is read
MAX_DOING_CHARS = 200


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
    def is_ready(self) -> bool:
        """Whether it lives, and is silent: what it writes unasked would be taken for the answer to another question."""
        assert self._process.stdout is not None
        return self._process.poll() is None and not _polled(self._process.stdout.fileno(), select.POLLIN, 0)

    def ask(
        self,
        question: object,
        wall_s: float,
        read: Callable[[Any], T],
        *,
        max_bytes: int = MAX_REPLY_BYTES,
        growth: int = 0,
    ) -> T:
        """Returns what `read` makes of the answer. Raises `Ended`, and `TookTooLong` after `wall_s` seconds, and lets
        the child run on.

        read: raises LookupError, TypeError or ValueError for an answer of another form. max_bytes: of the answer.
        growth: so many more for each byte of the question.
        """
        self.was_used = True
        deadline = time.monotonic() + wall_s
        asked = json.dumps(question).encode() + b"\n"
        max_bytes += growth * len(asked)
        self._write(asked, deadline)
        doing, left = "", b""
        while True:
            line, left = self._line(left, deadline, doing, max_bytes)
            max_bytes -= len(line)
            try:
                answer = json.loads(line)
                if isinstance(answer, dict) and answer.keys() == {"doing"}:
                    doing = str(answer["doing"])[:MAX_DOING_CHARS]
                    continue
                found = read(answer)
            except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
                raise Ended("it answered with something else than was asked for", doing) from error
            if left:
                raise Ended("it answered with more than was asked for", doing)
            return found

    def _line(self, left: bytes, deadline: float, doing: str, max_bytes: int) -> tuple[bytes, bytes]:
        """Returns the next line, and what was read after it. left: what was read before."""
        pieces, n_bytes = [left], len(left)
        while b"\n" not in pieces[-1]:
            if n_bytes > max_bytes:
                raise Ended("it answered with too much", doing)
            pieces.append(self._read(deadline, doing))
            n_bytes += len(pieces[-1])
        line, _, left = b"".join(pieces).partition(b"\n")
        return line, left

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
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not _polled(descriptor, event, left_s):
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


def _polled(descriptor: int, event: int, wait_s: float) -> bool:
    ready = select.poll()  # and not `select`, which takes descriptors below 1024 alone
    ready.register(descriptor, event)
    return bool(ready.poll(wait_s * 1000))
