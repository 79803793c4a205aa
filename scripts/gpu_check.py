"""Checks this project on a GPU: facts, tests, the server over HTTP, equality at real size, memory, moving of weights.

    python scripts/gpu_check.py --out gpu.json                 under eight minutes on one large GPU; downloads nothing
    python scripts/gpu_check.py --out gpu.json --budget 240    the most valuable parts first, as far as time allows
    python scripts/gpu_check.py --out tiny.json --tiny         tiny models, also without a GPU

Models have random weights, built on the device from their configurations. The parts run in the order of PARTS, several
in one process, because a process takes ten seconds to import its libraries; those that fill the device's memory have
one of their own. Results are written as they come. A process that dies or hangs costs the part that it was at: the
parts after it run in a new one.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    limit_s: float  # on a large GPU it takes half of it or less
    group: int  # parts of one group share a process


TESTS = Part("tests", 150.0, 0)  # beside the first group
PARTS = (
    TESTS,
    Part("facts", 40.0, 1),
    Part("server", 160.0, 1),
    Part("sd15", 40.0, 2),
    Part("sdxl", 60.0, 2),
    Part("sd3", 60.0, 2),
    Part("flux", 60.0, 2),
    Part("wan", 60.0, 2),
    Part("chat", 60.0, 2),
    Part("switching", 80.0, 2),
    Part("offload", 60.0, 2),
    Part("memory", 90.0, 3),
    Part("pictures", 90.0, 4),
)
START_S = 40.0  # until a process has imported its libraries
LEAST_S = 8.0  # a part is not begun when less is left
POLL_S = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--tiny", action="store_true", help="check tiny models, all in this process")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--budget", type=float, default=460.0, help="seconds for everything (default: %(default)s)")
    parser.add_argument("--device", default="", help="default: cuda where there is one, else cpu")
    parser.add_argument("--apart", action="store_true", help="processes for the parts of --tiny, too")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    parts = [part for part in PARTS if part.name in arguments.parts]
    file = ResultFile(arguments.out, {"tiny": arguments.tiny, "parts": {}})
    until = time.monotonic() + arguments.budget
    if arguments.in_this_process or (arguments.tiny and not arguments.apart):
        run_here(parts, file, until, arguments.device, tiny=arguments.tiny)
    else:
        options = [
            *(["--device", arguments.device] if arguments.device else []),
            *(["--tiny"] if arguments.tiny else []),
        ]
        run_in_children(parts, file, until, options)
    print(f"wrote {arguments.out}")


class ResultFile:
    """What was found so far, in memory and in a file that is never half written."""

    def __init__(self, out: Path, found: dict[str, Any]) -> None:
        self.out, self.found = out, found

    def record(self, part: str, /, **facts: Any) -> None:
        self.found["parts"].setdefault(part, {}).update(facts)
        self.save()

    def save(self) -> None:
        beside = self.out.with_suffix(".new")
        beside.write_text(json.dumps(self.found, indent=1))
        beside.replace(self.out)


# The parts, in this process


def run_here(parts: Sequence[Part], file: ResultFile, until: float, device: str, *, tiny: bool) -> None:
    """Runs the parts one after another. A device that no later part could use ends the process."""
    import torch

    from pipelines import device as device_module
    from server.process.libraries import stop_compilers

    device = device or device_module.default_device()
    if tiny:
        torch.set_num_threads(1)  # models this small are slower with two
    for part in parts:
        if until - time.monotonic() < LEAST_S:
            file.record(part.name, skipped="the time was up")
            continue
        began = time.perf_counter()
        file.found["at"] = part.name
        file.save()
        print(f"== {part.name}", flush=True)
        try:
            _run(part, file, device, tiny)
        except Exception as error:
            where = traceback.format_exc()[-3000:]
            file.record(part.name, error=f"{type(error).__name__}: {error}"[:2000], traceback=where)
            if device_module.is_fatal(error):
                raise
        gc.collect()
        device_module.release_cache()
        file.record(part.name, wall_s=round(time.perf_counter() - began, 1))
    stop_compilers()


def _run(part: Part, file: ResultFile, device: str, tiny: bool) -> None:
    def record(**facts: Any) -> None:
        print("  ", json.dumps(facts), flush=True)
        file.record(part.name, **facts)

    match part.name:
        case "tests":
            record(**Tests().result(TESTS.limit_s))
        case "facts":
            from scripts.gpu_facts import check_facts

            check_facts(tiny, device, record)
        case "server":
            from scripts.gpu_server import check_server

            check_server(tiny, device, record)
        case "chat":
            from scripts.gpu_lanes import check_chat

            check_chat(tiny, device, record)
        case "switching":
            from scripts.gpu_switching import check_switching

            check_switching(tiny, device, record)
        case "offload":
            from scripts.gpu_offload import check_offload

            check_offload(tiny, device, record)
        case "memory":
            from scripts.gpu_memory import check_memory

            check_memory(tiny, device, record)
        case "pictures":
            from scripts.gpu_pictures import check_pictures

            check_pictures(tiny, device, record)
        case family:
            from scripts.gpu_lanes import check_family

            check_family(family, tiny, device, record)


# The parts, in processes of their own


def run_in_children(parts: Sequence[Part], file: ResultFile, until: float, options: Sequence[str]) -> None:
    """Runs the tests beside the first group of parts, and the groups one after another."""
    tests = Tests() if TESTS in parts else None
    for group in sorted({part.group for part in parts} - {TESTS.group}):
        waiting = [part for part in parts if part.group == group]
        while waiting:
            waiting = Child(waiting, file, until, options).run()
    if tests is not None:
        file.record(TESTS.name, **tests.result(min(TESTS.limit_s, max(1.0, until - time.monotonic()))))


class Child:
    """A process that runs parts one after another, watched by its result file."""

    def __init__(
        self,
        parts: Sequence[Part],
        file: ResultFile,
        until: float,
        options: Sequence[str] = (),
        program: Sequence[str] = (sys.executable, __file__),
    ) -> None:
        self.parts, self.file, self.until = list(parts), file, until
        self.options, self.program = options, program

    def run(self) -> list[Part]:
        """Runs the parts and takes over their results. Returns the parts after one at which the process died."""
        left_s = self.until - time.monotonic()
        if left_s < LEAST_S:
            for part in self.parts:
                self.file.record(part.name, skipped="the time was up")
            return []
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "parts.json"
            command = [*self.program, "--in-this-process", "--out", str(out), "--budget", str(left_s)]
            command += ["--parts", *(part.name for part in self.parts), *self.options]
            process = subprocess.Popen(command, start_new_session=True)
            try:
                why = self.watch(process, out)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # the server that a dead check has left running
                process.wait()
            at = self.take_over(out)
        if why is None:
            return []
        stuck = at if at in [part.name for part in self.parts] else self.parts[0].name
        self.file.record(stuck, error=why)
        index = [part.name for part in self.parts].index(stuck)
        return self.parts[index + 1 :]

    def watch(self, process: subprocess.Popen[bytes], out: Path) -> str | None:
        """Waits for the end of the process, within the limits of its parts. Returns what went wrong."""
        limits = {part.name: part.limit_s for part in self.parts}
        at, since, limit_s = "", time.monotonic(), START_S
        while (code := process.poll()) is None:
            now = self.take_over(out)
            if now != at:
                at, since, limit_s = now, time.monotonic(), limits[now]
            if time.monotonic() - since > limit_s:
                return f"stopped after {limit_s:.0f} s"
            if time.monotonic() > self.until + LEAST_S:
                return "stopped: the time was up"
            time.sleep(POLL_S)
        return None if code == 0 else f"the process ended with code {code}"

    def take_over(self, out: Path) -> str:
        """Copies the results so far. Returns the part that the process is at."""
        if not out.exists():
            return ""
        found = json.loads(out.read_text())
        for name, facts in found["parts"].items():
            self.file.found["parts"].setdefault(name, {}).update(facts)
        self.file.save()
        return str(found.get("at", ""))


class Tests:
    """`pytest -m gpu`, in a process that runs beside others."""

    def __init__(self) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # the process writes to it until `result`
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "-rfE", "-p", "no:cacheprovider"]
        self._began = time.monotonic()
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=self._output, stderr=subprocess.STDOUT)

    def result(self, limit_s: float) -> dict[str, Any]:
        """Waits for the end of the tests, at most until `limit_s` seconds after their start."""
        try:
            code: int | str = self._process.wait(max(0.1, self._began + limit_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            code = "stopped"
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").splitlines()
        return {
            "code": code,
            "summary": lines[-1] if lines else "",
            "failed": [line for line in lines if re.match(r"(FAILED|ERROR) ", line)],
            "seconds": round(time.monotonic() - self._began, 1),
            "output": lines[-60:] if code != 0 else [],
        }


if __name__ == "__main__":
    main()
