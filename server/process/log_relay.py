"""Passes on what this process and its children write, so that none of them ever waits for who reads it.

A paused terminal, a stuck log driver or a full disk stops everyone who writes to it. So the supervisor puts a pipe in
the place of its standard output and error, which its children inherit; one thread reads the pipe at any time, another
writes to where the lines were meant to go. Lines for which there is no room are left out, counted, and told later.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import select
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Sequence

logger = logging.getLogger(__name__)

ROOM_BYTES = 4 * 2**20  # of lines that nobody has read
CHUNK_BYTES = 1 << 16
RETRY_S = 1.0  # after an error such as a full disk
PATIENCE_S = 1.0  # at the end, for a reader who takes nothing


class Relay:
    def __init__(self, descriptors: Sequence[int], *, room_bytes: int = ROOM_BYTES) -> None:
        """descriptors: those that lead to one place, such as a terminal. They lead to a pipe from now on."""
        self._out = os.dup(descriptors[0])
        self._pipe, into = os.pipe()
        for descriptor in descriptors:
            os.dup2(into, descriptor)  # inheritable
        os.close(into)
        self._room_bytes = room_bytes
        self._chunks: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._held_bytes = 0  # read from the pipe and not written
        self._written_bytes = 0
        self._left_out = 0  # lines, since the last time this was told
        self._is_leaving_out = False
        self._has_ended = False  # nobody can write any more
        for work in (self._read, self._write):
            threading.Thread(target=work, name=f"log{work.__name__}", daemon=True).start()

    def flush(self, patience_s: float = PATIENCE_S, longest_s: float = 5 * PATIENCE_S) -> None:
        """Waits until all is written, or nobody has read for `patience_s`."""
        end = time.monotonic() + longest_s
        written, give_up_at = -1, 0.0
        while self._unwritten_bytes():
            now = time.monotonic()
            if self._written_bytes != written:
                written, give_up_at = self._written_bytes, now + patience_s
            if now >= min(end, give_up_at):
                return
            time.sleep(0.005)

    def _unwritten_bytes(self) -> int:
        in_pipe = array.array("i", [0])
        with self._changed:
            fcntl.ioctl(self._pipe, termios.FIONREAD, in_pipe)
            return self._held_bytes + in_pipe[0]

    def _read(self) -> None:
        while True:
            select.select([self._pipe], [], [])
            with self._changed:  # so that bytes are always either in the pipe or held
                chunk = os.read(self._pipe, CHUNK_BYTES)
                if not chunk:
                    self._has_ended = True
                    self._changed.notify_all()
                    return
                self._keep(chunk)

    def _keep(self, chunk: bytes) -> None:
        """Keeps whole lines, as many as there is room for."""
        if self._is_leaving_out:
            # There has to be some room again, or every second line would be left out.
            start = chunk.find(b"\n") + 1 if self._held_bytes <= self._room_bytes // 2 else 0
            self._is_leaving_out = not start
            self._left_out += chunk.count(b"\n", 0, start or len(chunk))
            if self._is_leaving_out:
                return
            chunk = chunk[start:]
        elif self._held_bytes + len(chunk) > self._room_bytes:
            end = chunk.find(b"\n") + 1 or len(chunk)  # of the line that has begun
            self._left_out += chunk.count(b"\n", end)
            self._is_leaving_out = True
            chunk = chunk[:end]
        if chunk:
            self._chunks.append(chunk)
            self._held_bytes += len(chunk)
            self._changed.notify_all()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks or self._has_ended)
                if not self._chunks:
                    os.close(self._out)
                    os.close(self._pipe)
                    return
                chunk = self._chunks[0]
            self._write_all(chunk)
            with self._changed:
                self._chunks.popleft()
                left_out = self._left_out if not self._chunks else 0
                self._left_out -= left_out
            if left_out:  # this line goes through the pipe as any other
                logger.warning("log lines were left out, since nobody read them", extra={"lines": left_out})

    def _write_all(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            try:
                n_bytes = os.write(self._out, view)
            except BlockingIOError:  # whoever shares it has made it so
                select.select([], [self._out], [], RETRY_S)
                continue
            except OSError:  # the disk is full, or the reader is gone
                time.sleep(RETRY_S)
                continue
            with self._changed:
                self._held_bytes -= n_bytes
                self._written_bytes += n_bytes
            view = view[n_bytes:]


def relay_output() -> Sequence[Relay]:
    """Relays the standard output and error of this process and its children: together where they lead to one place."""
    places = [(stat.st_dev, stat.st_ino) for stat in (os.fstat(1), os.fstat(2))]
    return [Relay([1, 2])] if places[0] == places[1] else [Relay([1]), Relay([2])]


def open_missing_output() -> None:
    """Gives a process that was started without standard output or error nowhere to write to. Otherwise a file or
    a socket would get that descriptor, and lines for people with it.
    """
    for descriptor, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor
            os.set_inheritable(nowhere, True)
            setattr(sys, name, os.fdopen(nowhere, "r" if descriptor == 0 else "w"))
