"""Named points at which a test may let the running program fail. Any thread.

The program calls `reach("load", model)` and the like where faults happen in the world. A test starts it with
AGENTNAME_FAULTS, the path of a JSON file, and arms and disarms faults by rewriting that file while the program runs.
Without the variable, which is refused unless AGENTNAME_TESTING is 1, a point costs one look at a variable.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

FAULTS, TESTING = "AGENTNAME_FAULTS", "AGENTNAME_TESTING"
FOREVER_S = 1 << 20

Deed: TypeAlias = Literal[
    "raise",  # an ordinary exception
    "panic",  # a BaseException, as native code raises
    "oom",  # the device's memory is full
    "lost",  # an error after which this process cannot use the device
    "enospc",  # the disk is full
    "slow",  # go on after `seconds`
    "hang",  # never go on; other Python threads do
    "hang-gil",  # never go on, and no other Python thread either
    "exit",  # end the process with the code `code`
    "kill",  # SIGKILL
    "segv",  # SIGSEGV
]


class InjectedPanic(BaseException):
    """Stands for what native code raises past `except Exception`, such as a Rust panic."""


@dataclass(frozen=True, slots=True)
class Fault:
    at: str  # the point
    do: Deed
    about: str = ""  # only where this is part of what the point is about: a model, a prompt
    nth: int = 1  # from the nth time on that the point is reached so in this process
    times: int = 1  # as often as this, counted over all processes that share the file
    seconds: float = 1.0
    code: int = 1


def check_environment(environ: Mapping[str, str]) -> str:
    """Why faults may not be asked for, or nothing."""
    if FAULTS in environ and environ.get(TESTING) != "1":
        return f"{FAULTS} lets the server fail on purpose, for tests; it needs {TESTING}=1."
    return ""


class _Switchboard:
    def __init__(self, path: Path) -> None:
        self._path, self._fired = path, path.with_suffix(".fired")
        self._read_at: tuple[int, int] | None = None
        self._faults: list[Fault] = []
        self._reached: Counter[Fault] = Counter()
        self._lock = threading.Lock()

    def reach(self, point: str, about: str) -> None:
        with self._lock:
            fault = self._due(point, about)
            if fault is not None:
                with self._fired.open("a") as file:  # before it happens, since the process may not come back
                    file.write(f"{point} {fault.do} {fault.about}\n")
        if fault is not None:
            _happen(fault)

    def _due(self, point: str, about: str) -> Fault | None:
        self._refresh()
        for fault in self._faults:
            if fault.at != point or fault.about not in about:
                continue
            self._reached[fault] += 1
            if self._reached[fault] >= fault.nth and self._n_fired(fault) < fault.times:
                return fault
        return None

    def _n_fired(self, fault: Fault) -> int:
        try:
            return self._fired.read_text().splitlines().count(f"{fault.at} {fault.do} {fault.about}")
        except FileNotFoundError:
            return 0

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._faults, self._read_at = [], None
            return
        version = (stat.st_mtime_ns, stat.st_size)
        if version != self._read_at:
            self._faults = [Fault(**each) for each in json.loads(self._path.read_text() or "[]")]
            self._read_at = version


def _happen(fault: Fault) -> None:
    match fault.do:
        case "raise":
            raise RuntimeError(f"injected at {fault.at}")
        case "panic":
            raise InjectedPanic(f"injected at {fault.at}")
        case "oom":
            torch: Any = importlib.import_module("torch")  # by name: most of the server never imports it
            raise torch.OutOfMemoryError(f"injected at {fault.at}")
        case "lost":
            raise RuntimeError(f"CUDA error: device-side assert triggered, injected at {fault.at}")
        case "enospc":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case "slow":
            time.sleep(fault.seconds)
        case "hang":
            time.sleep(FOREVER_S)
        case "hang-gil":
            ctypes.PyDLL(None).sleep(FOREVER_S)  # unlike CDLL, it keeps the interpreter's lock
        case "exit":
            os._exit(fault.code)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)


_switchboard = (
    _Switchboard(Path(os.environ[FAULTS])) if FAULTS in os.environ and os.environ.get(TESTING) == "1" else None
)


def reach(point: str, *about: object) -> None:
    """The program is at this point, about to do what it is named for. about: to choose by, such as a model's name."""
    if _switchboard is not None:
        _switchboard.reach(point, " ".join(map(str, about)))
