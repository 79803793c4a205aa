"""The child's side: limits of its own, and the loop that answers one question after another. Main thread.

The limits hold without the parent: of memory for the whole process, of processor and wall time for each question. When
the time is over, a signal ends the process, also inside a library. When the parent ends, the input closes and the loop
with it, at the latest after the question that is being answered.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

NICENESS = 5  # the server's own threads go first
MAX_GROWN_BYTES = 384 << 20  # a child that has become larger ends after its answer, and another one takes its place

_replies: BinaryIO | None = None


def serve(
    answer: Callable[[Any], object],
    *,
    memory_bytes: int,
    cpu_s: float,
    wall_s: float,
    niceness: int = NICENESS,
    keeps_nothing: bool = True,
) -> None:
    """Answers until the input ends. `answer` must return JSON; what it raises ends the process.

    keeps_nothing: another child could answer the next question as well, so that a large one may end.

    A question is an object; its "cpu_s", if it has one, is the processor time that it may take.
    """
    global _replies
    # Whatever a library prints must not get between the answers.
    _replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes no files
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl+C in the terminal is for the server
    os.nice(niceness)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, min(cpu_s, question.get("cpu_s", cpu_s)))
        signal.setitimer(signal.ITIMER_REAL, wall_s)
        _reply(answer(question))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if keeps_nothing and _resident_bytes() > MAX_GROWN_BYTES:
            return


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux
        return 0


def is_limited() -> bool:
    """Whether this process is such a child, so that whatever it tries can harm only itself."""
    return _replies is not None


def doing(what: str) -> None:
    """Tells the parent what is begun, in case the process does not survive it. Without a parent: nothing."""
    if _replies is not None:
        _reply({"doing": what})


def _reply(answer: object) -> None:
    assert _replies is not None
    line = memoryview(json.dumps(answer).encode() + b"\n")
    while line:
        line = line[_replies.write(line) or 0 :]
