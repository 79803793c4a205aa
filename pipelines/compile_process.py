"""Compiles in a process of its own, which leaves the results in the compiler's cache on disk.

A compiler runs for many seconds in Python, so on a thread of the server it would take the interpreter lock from the
device thread. The process gets tasks that hold no data: modules and arguments as `block_calls.py` describes them. Its
exit leaves the cache, and what came of each task. The server's own compilation of the same is then a look-up.

torch's compiler has worker processes of its own. They are in the process group of this one, which always ends as a
whole: when all tasks are done, when it is stopped, when it takes too long, and when the server is gone, however that
ended. At a normal exit torch 2.11 would wait for its workers, for up to five minutes.

`CompileProcess` is the side of the device thread; `main` is what the process runs: python -m ... FOLDER.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from pipelines.child_process import COMPILER, ends_by_itself, start

TASKS, RESULTS = "tasks.pt", "results.json"
TIMEOUT_S = 600.0  # a compiler that takes longer is stopped
POOL_TIMEOUT_S = 60.0
NICENESS = 10  # the server's own threads go first


class CompileTask(Protocol):
    """Something to compile. It is pickled, so its class must be importable."""

    def compile(self, target: torch.device) -> None:
        """Compile it, as the server will, and run it once. Runs in the process, and raises whatever is wrong."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the process needs to know."""

    tasks: tuple[CompileTask, ...]
    device: str
    threads: int  # of torch on a CPU, which is part of the code that is made for it


class CompileProcess:
    """A process that works on some tasks, one after the other."""

    def __init__(self, tasks: Sequence[CompileTask], device_name: str) -> None:
        """Raises OSError when the process cannot be started, and what pickling a task raises."""
        self._n_tasks = len(tasks)
        self._folder = Path(tempfile.mkdtemp(prefix="compile-"))  # for this user alone: its contents are unpickled
        self._deadline = time.monotonic() + TIMEOUT_S
        try:
            torch.save(Wanted(tuple(tasks), device_name, torch.get_num_threads()), self._folder / TASKS)
            self._log = (self._folder / "log").open("wb")
            self._process = start(
                [sys.executable, "-m", "pipelines.compile_process", str(self._folder)],
                env=COMPILER,
                niceness=NICENESS,
                stdin=subprocess.PIPE,  # nothing is written to it; it closes with this process
                stdout=self._log.fileno(),
                stderr=subprocess.STDOUT,
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def results(self) -> Sequence[str]:
        """For each task that is done, why it could not be compiled; "" for success."""
        try:
            results: list[str] = json.loads((self._folder / RESULTS).read_text())
        except (OSError, ValueError):
            return []
        return results

    def failures(self) -> Sequence[str] | None:
        """None: still at it. Then the results of all tasks."""
        code = self._process.poll()
        if code is None and time.monotonic() > self._deadline:
            results, reason = self.results(), "the compiler took too long"
        elif code is None:
            return None
        else:
            results, reason = self.results(), f"the compiler ended with code {code}: {self._last_words()}"
        self._clean_up()
        return [*results, *[reason] * (self._n_tasks - len(results))]

    def stop(self) -> None:
        self._clean_up()

    def _last_words(self) -> str:
        lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else ""

    def _clean_up(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # it has ended, and nothing of its group is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def main() -> None:
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_server, args=(folder,), daemon=True).start()
    ends_by_itself()
    wanted: Wanted = torch.load(folder / TASKS, weights_only=False)  # written by the server itself
    torch.set_num_threads(wanted.threads)
    if torch.device(wanted.device).type == "cuda":
        start_compilers()
    results = []
    for task in wanted.tasks:
        results.append(_compile(task, torch.device(wanted.device)))
        (folder / "new").write_text(json.dumps(results))
        (folder / "new").replace(folder / RESULTS)
    _end_group()


def start_compilers() -> None:
    """Starts torch's own workers and waits until they are ready, some seconds.

    torch compiles a kernel in them only if they are ready at that moment, and else one kernel after another in this
    process. A block of a denoiser has dozens.
    """
    with suppress(Exception):  # without the workers everything is compiled, too, only later
        from torch._inductor.async_compile import AsyncCompile

        compilers: Any = AsyncCompile
        compilers.use_process_pool()  # begins to start them
        import torch._inductor.compile_fx  # noqa: F401  # meanwhile, because it is needed next

        compilers.wait_pool_ready(POOL_TIMEOUT_S)


def _end_with_server(folder: Path) -> None:
    """Waits until the server closes its end of the standard input, which it does also by ending, or for the limit."""
    select.select([0], [], [], TIMEOUT_S)
    shutil.rmtree(folder, ignore_errors=True)  # the server may not be there to do it
    _end_group()


def _end_group() -> None:
    """Ends this process and torch's own workers at once. The cache stays whole: files are renamed into it."""
    os.killpg(0, signal.SIGKILL)


@torch.no_grad()
def _compile(task: CompileTask, target: torch.device) -> str:
    """Why the task failed; "" once it is done."""
    try:
        task.compile(target)
    except Exception as error:  # noqa: BLE001  # whatever a compiler raises is told to the server
        return reason_of(error)
    return ""


def reason_of(error: BaseException) -> str:
    """A line for a person: the compiler's errors name the kind in their first line and the cause in their second."""
    lines = [f"{type(error).__name__}:", *str(error).split("\n")[:2]]
    return " ".join(line.strip() for line in lines if line.strip())[:300].rstrip(".:")


if __name__ == "__main__":
    main()
