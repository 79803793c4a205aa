"""Marks what a thread is about to do in a file that outlives the process, so that an end of it tells what it was doing.

Each thread that runs models or native code has a file of its own, which is mapped into memory: a mark is a copy of some
bytes without a system call, and the kernel keeps it when the process is killed at any moment. The supervisor and the
next process read the marks. A machine that loses its power may lose them, and nobody is blamed for that.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import mmap
import os
import re
import struct
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

FILE_BYTES = 1 << 15  # of a file with the ids of some hundred jobs; the pages that are not written take no room
KEPT_TEXTS = 16
ENDING = ".mark"
MARKS = "marks"  # the folder's name in the data folder
STOPPING = "stopping"  # the file that says that the process was asked to stop
ENDED = "ended"  # the file in which the supervisor says how the process ended, unless somebody killed it
FAULT = "fault"  # the file to which `faulthandler` writes the stacks of all threads when native code crashes
_HEADER = struct.Struct("<QdI")  # odd while the rest is being written, the moment, the length of the text behind it


@dataclass(frozen=True, slots=True)
class Marked:
    """What a thread was doing."""

    place: str  # the thread: "device-0", "encode-1"
    action: str  # "load", "step", "encode"
    since: float  # `time.monotonic()`, which all processes of a machine share
    model: str = ""
    jobs: tuple[str, ...] = ()  # ids of those that it was done for
    thread: int = 0  # `threading.get_ident()` of the thread

    def __str__(self) -> str:
        return described(self.action, self.model, self.jobs)


def described(action: str, model: str, jobs: Sequence[str]) -> str:
    """As in "step of sdxl for job_1, job_2", for the log."""
    of_model = f" of {model}" if model else ""
    return f"{action}{of_model}{' for ' + ', '.join(jobs[:8]) if jobs else ''}"


class Mark:
    """The mark of one thread. Only that thread calls it."""

    def __init__(self, path: Path) -> None:
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            file.truncate(FILE_BYTES)
            self._map = mmap.mmap(file.fileno(), FILE_BYTES)
        self._count = 0
        self._texts: dict[tuple[str, str, tuple[str, ...]], bytes] = {}  # of the latest marks
        self.end()

    def begin(self, action: str, model: str = "", jobs: Sequence[str] = ()) -> None:
        """The thread is about to do this. It replaces what was marked before."""
        what = action, model, tuple(jobs)
        text = self._texts.get(what)  # a lane takes many equal steps
        if text is None:
            if len(self._texts) >= KEPT_TEXTS:
                self._texts.clear()
            text = self._texts[what] = _text(*what)
        self._write(text)

    def end(self) -> None:
        """The thread does nothing that could end the process."""
        self._write(b"")

    @contextmanager
    def during(self, action: str, model: str = "", jobs: Sequence[str] = ()) -> Iterator[None]:
        self.begin(action, model, jobs)
        try:
            yield
        finally:
            self.end()

    def _write(self, text: bytes) -> None:
        self._count += 2
        _HEADER.pack_into(self._map, 0, self._count - 1, 0.0, 0)
        self._map[_HEADER.size : _HEADER.size + len(text)] = text
        _HEADER.pack_into(self._map, 0, self._count, time.monotonic(), len(text))


def _text(action: str, model: str, jobs: Sequence[str]) -> bytes:
    fields = {"action": action, "model": model, "thread": threading.get_ident()}
    while True:
        text = json.dumps({**fields, "jobs": jobs}).encode()
        if len(text) <= FILE_BYTES - _HEADER.size:
            return text
        jobs = jobs[: len(jobs) // 2]  # more than a lane ever runs at once


class Marks:
    """The marks of the threads of this process. Any thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._of_thread = threading.local()
        self._n_threads = 0
        self._busy: dict[int, Marked] = {}  # by thread; each entry is replaced as a whole
        self._lock = threading.Lock()  # for `_n_threads`: any worker thread may come for its first mark

    def device(self, index: int) -> Mark:
        """The mark of a device's thread, which alone may use it."""
        return Mark(self.folder / f"device-{index}{ENDING}")

    @contextmanager
    def during(self, action: str, model: str = "", jobs: Sequence[str] = ()) -> Iterator[None]:
        """Marks what the calling thread does within the block, such as a thread of a pool of workers."""
        mark: Mark | None = getattr(self._of_thread, "mark", None)
        if mark is None:
            with self._lock:
                self._n_threads += 1
                name = f"worker-{self._n_threads}{ENDING}"
            mark = self._of_thread.mark = Mark(self.folder / name)
        thread = threading.get_ident()
        self._busy[thread] = Marked("", action, time.monotonic(), model, tuple(jobs))
        try:
            with mark.during(action, model, jobs):
                yield
        finally:
            del self._busy[thread]

    def overdue(self, limit_s: float, actions: Collection[str]) -> str | None:
        """What a worker thread has been in for longer than `limit_s`, of these actions; devices aside."""
        began_before = time.monotonic() - limit_s
        busy = (marked for marked in list(self._busy.values()) if marked.action in actions)
        return next((str(marked) for marked in busy if marked.since < began_before), None)


def read_marks(folder: Path) -> list[Marked]:
    """What the threads of a process were doing when it ended, or are doing; never raises."""
    found = []
    for path in sorted(folder.glob(f"*{ENDING}")):
        try:
            content = path.read_bytes()
            count, since, length = _HEADER.unpack_from(content)
            if length and count % 2 == 0:
                fields = json.loads(content[_HEADER.size : _HEADER.size + length])
                jobs = tuple(map(str, fields["jobs"]))
                action, model, thread = str(fields["action"]), str(fields["model"]), int(fields["thread"])
                found.append(Marked(path.stem, action, since, model, jobs, thread))
        except (OSError, struct.error, ValueError, KeyError, TypeError):
            logger.warning("mark not readable", extra={"file": path.name})
    return found


def write_faults(folder: Path) -> None:
    """Let a crash of native code leave the stacks of all threads in the folder, which tell the thread that crashed."""
    faulthandler.enable(open(folder / FAULT, "w"), all_threads=True)  # noqa: SIM115  # open until the process ends


def read_fault(folder: Path) -> tuple[str, int]:
    """The stacks that a crash of native code left, and the thread that crashed; empty and 0 without one."""
    try:
        stacks = (folder / FAULT).read_text(errors="replace")
    except OSError:
        return "", 0
    crashed = re.search(r"^Current thread 0x([0-9a-f]+)", stacks, re.MULTILINE)
    return stacks, int(crashed[1], 16) if crashed else 0


def remove_recent(folder: Path, after: float) -> None:
    """Remove the marks of what began after this moment, because something that began before it is to blame."""
    recent = {marked.place for marked in read_marks(folder) if marked.since > after}
    for place in recent:
        (folder / f"{place}{ENDING}").unlink(missing_ok=True)


def remove_marks(folder: Path) -> None:
    """Nobody is to blame for the end of the process that made them, or it has been told already."""
    for path in (*folder.glob(f"*{ENDING}"), folder / STOPPING, folder / ENDED, folder / FAULT):
        try:
            path.unlink(missing_ok=True)
        except OSError:
            logger.warning("mark not removed", extra={"file": path.name})


def note_stop(folder: Path) -> None:
    """The process is asked to stop: whatever it does when it ends is not to blame. Never raises."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / STOPPING).touch(mode=0o600)
    except OSError:
        logger.warning("planned stop not noted")


def note_end(folder: Path, how: str) -> None:
    """The process has ended, and nobody else has killed it: what it did may be to blame. Never raises."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / ENDED).write_text(how)
    except OSError:
        logger.warning("end of the process not noted")


def ended_by_itself(folder: Path) -> bool:
    """False: somebody has killed the process, or its supervisor with it."""
    return (folder / ENDED).exists()


def is_stopping(folder: Path) -> bool:
    return (folder / STOPPING).exists()
