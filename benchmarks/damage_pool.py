"""Runs cases in child processes, so that a crash, an endless loop or spent memory ends one case and is its verdict."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import resource
import shutil
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from benchmarks.damage_verdict import Case, Row, damage, judge

CASE_CPU_S = 60.0  # the slowest case that ends takes a few seconds
CASE_S = 600.0  # by the clock: the machine may be busy
MEMORY_BYTES = 12 << 30  # address space of a child: a config may ask for any size
BEGUN = "begun"
CASES_OF_A_CHILD = 250  # then a new one, which bounds what the libraries keep


class Child:
    """One process and the case that it works on."""

    def __init__(self, scratch: Path, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, scratch, seed), daemon=True)
        self.process.start()
        theirs.close()
        self.case: Case | None = None
        self.begun: Row | None = None  # what was damaged, for a case that does not end
        self.done = 0
        self._began, self._cpu_began = time.monotonic(), 0.0

    def give(self, case: Case) -> None:
        self.case, self.begun, self._began, self._cpu_began = case, None, time.monotonic(), self._cpu_s()
        self.pipe.send(case)

    @property
    def is_late(self) -> bool:
        return self._cpu_s() - self._cpu_began > CASE_CPU_S or time.monotonic() - self._began > CASE_S

    def _cpu_s(self) -> float:
        try:
            times = psutil.Process(self.process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(cases: Iterable[Case], scratch: Path, seed: int, n_children: int) -> Iterator[Row]:
    """Yields the rows as they are found. scratch: holds the sound checkpoints, and the damaged ones for a while."""
    waiting = list(cases)[::-1]
    children = [Child(scratch, seed) for _ in range(min(n_children, len(waiting)))]
    try:
        while waiting or any(child.case for child in children):
            for place, child in enumerate(children):
                if child.case is None and waiting:
                    if child.done >= CASES_OF_A_CHILD:
                        child.stop()
                        child = children[place] = Child(scratch, seed)
                    child.give(waiting.pop())
            ready = wait([child.pipe for child in children if child.case], timeout=1.0)
            for place, child in enumerate(children):
                if child.case is None:
                    continue
                row = _take(child) if child.pipe in ready else _late(child)
                if row is None:
                    continue
                yield row
                if row.verdict in ("died", "hang"):
                    child.stop()
                    children[place] = Child(scratch, seed)
                child.case = None
    finally:
        for child in children:
            child.stop()


def _take(child: Child) -> Row | None:
    assert child.case is not None
    try:
        row: Row = child.pipe.recv()
    except (EOFError, ConnectionResetError):
        child.process.join()
        return _unfinished(child, "died", f"exit code {child.process.exitcode}")
    if row.verdict == BEGUN:
        child.begun = row
        return None
    child.done += 1
    return row


def _late(child: Child) -> Row | None:
    return _unfinished(child, "hang", f"no end within {CASE_CPU_S:g} s of CPU time") if child.is_late else None


def _unfinished(child: Child, verdict: str, message: str) -> Row:
    assert child.case is not None
    row = child.begun or _empty(child.case)
    return replace(row, verdict=verdict, message=message)


def _empty(case: Case) -> Row:
    return Row(case.number, case.sound, case.part, case.edit or "", "", BEGUN)


# In the child


def _work(pipe: Connection, scratch: Path, seed: int) -> None:
    import torch

    quiet()
    torch.set_num_threads(1)  # networks this small are slower with two
    torch.set_grad_enabled(False)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while True:
        try:
            case: Case = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        pipe.send(_row(case, scratch, seed, pipe))
        gc.collect()


def quiet() -> None:
    import diffusers
    import transformers
    from tqdm import tqdm

    from models.loading.load import quiet_libraries

    quiet_libraries()
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.set_verbosity(logging.CRITICAL)
    logging.disable(logging.CRITICAL)
    tqdm.set_lock(threading.RLock())  # instead of one for several processes, which a killed child leaves behind


def _row(case: Case, scratch: Path, seed: int, pipe: Connection) -> Row:
    began = time.monotonic()
    data_dir = scratch / f"case-{case.number}"
    row = _empty(case)
    try:
        sound, edit, what = damage(case, seed, scratch / case.sound, data_dir)
        row = replace(row, edit=edit, what=what)
        pipe.send(row)
        verdict, message, library = judge(sound, scratch / case.sound, data_dir)
        row = replace(row, verdict=verdict, message=message, library=library)
    except BaseException as error:  # noqa: BLE001  # of the tool itself: the sides catch their own
        row = replace(row, verdict="tool", message=f"{type(error).__name__}: {error} {traceback.format_exc()[-600:]}")
    shutil.rmtree(data_dir, ignore_errors=True)
    return replace(row, seconds=time.monotonic() - began)
