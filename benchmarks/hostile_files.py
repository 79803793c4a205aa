"""Puts thousands of hostile files into a running server's models folder, and measures how long others wait meanwhile.

    python benchmarks/hostile_files.py --files 5000 --seed 1 --json hostile.json

Two sound models lie among them and are to be served, chats and pictures go on, and each file must be refused with a
reason or served. In the end the server starts again over all of them.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import common

from tests.support.checkpoints import chat_folder, stable_diffusion_folder
from tests.support.hostile_files import make_hostile
from tests.support.http.live_server import LiveServer

BATCH = 500  # files that appear together
MAX_WAIT_S = 1.0
SETTLED_S = 1200.0


class Prober:
    """Asks a server without pause, as three clients, and keeps the longest wait of each."""

    def __init__(self, live: LiveServer) -> None:
        self.longest: dict[str, float] = {}
        self.replies: Counter[str] = Counter()
        self.failures: list[str] = []
        self._live = live
        self._stopped = threading.Event()
        status = f"/api/status/{live.submit(prompt='a', type='image', steps=2)}"
        self._threads = [
            threading.Thread(target=self._ask, args=(name, path), daemon=True)
            for name, path in (("healthz", "/healthz"), ("readyz", "/readyz"), ("status", status))
        ]

    def __enter__(self) -> Prober:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, name: str, path: str) -> None:
        while not self._stopped.wait(0.05):
            began = time.perf_counter()
            try:
                status = self._live.get(path).status
            except OSError as error:
                self.failures.append(f"{name}: {error}")
                continue
            self.longest[name] = max(self.longest.get(name, 0.0), time.perf_counter() - began)
            self.replies[name] += 1
            if status != 200:
                self.failures.append(f"{name}: {status}")


def main() -> None:
    options = common.arguments(
        __doc__, ("--files", {"type": int, "default": 5000}), ("--seed", {"type": int, "default": 1})
    )
    report = common.Report(f"{options.files} hostile files")
    with tempfile.TemporaryDirectory() as folder:
        live = LiveServer(Path(folder) / "data", env={"AGENTNAME_TORCH_THREADS": "1"})
        live.start()
        try:
            measure(report, live, options.files, options.seed)
        finally:
            live.stop()
            subprocess.run(["chmod", "-R", "u+rwx", folder], check=False)  # noqa: S607  # for its removal
    report.save(options.json)


def measure(report: common.Report, live: LiveServer, n_files: int, seed: int) -> None:
    root = live.data_dir / "models"
    root.mkdir(exist_ok=True)
    pid = live.server_pid()
    kinds: Counter[str] = Counter()
    with Prober(live) as prober:
        began = time.perf_counter()
        for first in range(0, n_files, BATCH):
            for number in range(first, min(first + BATCH, n_files)):
                kinds[make_hostile(root, number, seed)] += 1
            if first == 0:
                chat_folder(root / "zz-sound-chat")
                stable_diffusion_folder(root / "zz-sound-pictures")
            assert chat(live) == 200
        sound_s = wait_until(live, lambda listed: len(sound(listed)) == 2, began)
        settled_s = wait_until(live, is_settled, began)
        listed = live.get("/api/models").json
    report.add("until two sound models among them were served", sound_s, "s")
    report.add("until all were read", settled_s, "s")
    for name, seconds in prober.longest.items():
        report.add(f"longest wait for {name}", seconds * 1e3, "ms", most=MAX_WAIT_S * 1e3)
    report.add("failed requests", len(prober.failures), most=0)
    report.add("refused with a reason", sum(bool(each["reason"]) for each in listed["refused"]))
    report.add("listed without a reason", sum(not each["reason"] for each in listed["refused"]), most=0)
    report.add("served", len(listed["models"]))
    report.add("the server was replaced", int(live.server_pid() != pid), most=0)
    live.stop()
    began = time.perf_counter()
    live.start()
    report.add("ready again over all of them", time.perf_counter() - began, "s")
    wait_until(live, is_settled, time.perf_counter())
    again = live.get("/api/models").json
    report.add("told otherwise after a start", len(differing(listed, again)), most=0)
    print(*prober.failures[:5], *differing(listed, again)[:5], sep="\n")
    print(dict(kinds))


def chat(live: LiveServer) -> int:
    return live.post("/api/chat", {"message": "Hello", "max_tokens": 1}).status


def sound(listed: Any) -> list[str]:
    return [each["name"] for each in listed["models"] if each["name"].startswith("zz-sound") and not each["reason"]]


def is_settled(listed: Any) -> bool:
    return len(sound(listed)) == 2 and all(each["reason"] != "is still being read" for each in listed["refused"])


def wait_until(live: LiveServer, condition: Any, began: float) -> float:
    """Returns the seconds from `began`."""
    deadline = time.perf_counter() + SETTLED_S
    settled_twice = 0
    while settled_twice < 2:  # a change that was just made is noticed after two looks
        assert time.perf_counter() < deadline, live.log_tail()
        settled_twice = settled_twice + 1 if condition(live.get("/api/models").json) else 0
        time.sleep(2.5 if settled_twice == 1 else 0.5)
    return time.perf_counter() - began


def differing(before: Any, after: Any) -> list[str]:
    def told(listed: Any) -> set[tuple[str, str]]:
        return {(each["name"], each["reason"] or "") for each in (*listed["refused"], *listed["models"])}

    return [f"{name}: {reason}" for name, reason in sorted(told(before) ^ told(after))]


if __name__ == "__main__":
    os.umask(0o077)
    main()
