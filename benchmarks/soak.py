"""Runs a mixed load for a long time and looks whether the server keeps more and more of anything.

    python benchmarks/soak.py --minutes 45 --seed 7

Images 60 %, clips 10 %, chats 30 %; 5 % of the jobs are canceled, 5 % of the chats' clients hang up, 2 % of the
requests are wrong. Memory, descriptors, threads and the write-ahead log are read each second; the last third of the
samples is compared with the second third. At the end the ledger is audited. Exits with 1 if a bound is passed.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mixed_load import Load, wait_all_ended
from tests.support.http.live_audit import audit
from tests.support.http.live_server import LiveServer

MIB = 1 << 20
MOST_GROWTH = 0.02  # of the memory: the mean of the last third of the samples over that of the second
SLACK = 2  # descriptors and threads that may come and go
MOST_LOG_BYTES = 64 * MIB


@dataclass(frozen=True)
class Sample:
    memory_bytes: int  # of the serving process and its children
    descriptors: int
    threads: int
    log_bytes: int  # the store's write-ahead log


@dataclass
class Sampler:
    """Takes a sample each second, on a thread of its own."""

    live: LiveServer
    samples: list[Sample] = field(default_factory=list)

    def start(self) -> Sampler:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            try:
                self.samples.append(sample(self.live))
            except (OSError, IndexError):  # the process has just ended; the audit tells if it should not have
                continue


def sample(live: LiveServer) -> Sample:
    pid = live.server_pid()
    log = live.data_dir / "agentname.db-wal"
    return Sample(
        sum(_memory_bytes(each) for each in (pid, *_children(pid))),
        len(os.listdir(f"/proc/{pid}/fd")),
        len(os.listdir(f"/proc/{pid}/task")),
        log.stat().st_size if log.exists() else 0,
    )


def _children(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            found += [int(each) for each in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
        except FileNotFoundError:  # the thread has ended
            continue
    return found


def _memory_bytes(pid: int) -> int:
    try:
        match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:  # the child has ended
        return 0
    return 0 if match is None else int(match[1]) * 1024


def compare(samples: Sequence[Sample]) -> list[str]:
    """Prints the means of the second and the last third, and returns which bounds are passed."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    if not middle:
        return ["fewer than three samples"]
    passed = []
    means = [[statistics.fmean(column) for column in zip(*map(astuple, part), strict=True)] for part in (middle, last)]
    for name, before, after in zip((each.name for each in fields(Sample)), *means, strict=True):
        print(f"{name:13} {before:16,.1f} {after:16,.1f}")
        bound = before * (1 + MOST_GROWTH) if name == "memory_bytes" else before + SLACK
        if name != "log_bytes" and after > bound:
            passed.append(f"{name}: {before:,.1f} became {after:,.1f}")
    largest = max(each.log_bytes for each in samples)
    if largest > MOST_LOG_BYTES:
        passed.append(f"the write-ahead log had {largest:,} bytes")
    return passed


def _warm_up(live: LiveServer) -> None:
    """Loads what the load uses: a model that is loaded late would look like growth."""
    jobs = [live.submit(type=kind, prompt="a warm house", steps=2, width=64, height=64) for kind in ("image", "video")]
    for job in jobs:
        live.wait(job)
    live.chat("Say hello to everybody", max_tokens=8)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        live = LiveServer(Path(folder) / "data", {"AGENTNAME_TORCH_THREADS": "1"}, port=options.port).start()
        first_pid = live.server_pid()
        _warm_up(live)
        load = Load(live, options.seed, options.clients, cancels=0.05, disconnects=0.05, bad=0.02, most_open=4)
        load.start()
        sampler = Sampler(live).start()
        time.sleep(options.minutes * 60)
        sampler.stop()
        load.stop()
        ends = wait_all_ended(load)
        problems = compare(sampler.samples) + audit(live)
        if live.server_pid() != first_pid:
            problems.append("the process ended and was started again")
        problems += [f"{n} jobs were {end}" for end in ("lost", "endless") if (n := ends[end])]
        problems += [f"{n} times {each}" for each, n in load.replies.items() if each[1] in (500, "broken")]
        code = live.stop()
    if code:
        problems.append(f"the server ended with {code}")
    print(f"replies       {dict(sorted(load.replies.items(), key=str))}")
    print(f"jobs          {dict(ends)}")
    print("\n".join(problems) or "Nothing grew, and the ledger is right.")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
