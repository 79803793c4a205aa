"""The ledger audit of a server that runs in a test, and what its process holds."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.audit import audit_folder, audit_log, audit_replies
from tests.support.http.live_server import LiveServer

JOB = re.compile(r"(job_[0-9]+_[0-9A-Za-z]{22})")
REST_S = 90.0  # until jobs that a test left behind have ended
POLL_S = 0.05
RETURN_S = 5.0  # until what a request held is given back
# What one test may leave more of: pools make their threads, and the store its readers, when they are first needed.
SLACK = {"children": 1, "descriptors": 8, "threads": 8}


def audit(live: LiveServer, rest_s: float = REST_S) -> list[str]:
    """What is wrong with a server, once it has come to rest if it runs. Empty: all is as promised."""
    deadline = time.monotonic() + rest_s
    while problems := _audit(live):
        if time.monotonic() > deadline or not _runs(live):
            break
        time.sleep(POLL_S)
    log = Path(live.log.name).read_text()
    problems += audit_replies(live.seen.errors, live.seen.expected_500)
    problems += audit_log(log, {*live.seen.texts, live.key, *live.seen.keys})
    return problems


@dataclass(frozen=True)
class Held:
    """What the process of a server holds at rest."""

    pid: int
    models: tuple[Any, ...]
    children: int
    descriptors: int
    threads: int

    def grown_to(self, later: Held) -> list[str]:
        """What it holds more of. Another process, or other models in memory, are not comparable."""
        if (later.pid, later.models) != (self.pid, self.models):
            return []
        return [
            f"L7 {was} {name} became {now}"
            for name, slack in SLACK.items()
            if (now := getattr(later, name)) > (was := getattr(self, name)) + slack
        ]


def held(live: LiveServer) -> Held | None:
    """None when the server does not run."""
    if not _runs(live):
        return None
    try:
        pid = live.server_pid()
        models = live.get("/api/models").json["models"]
        threads = os.listdir(f"/proc/{pid}/task")
        children = [
            child for task in threads for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        ]
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except (OSError, IndexError, KeyError, ValueError):  # it has just ended
        return None
    in_memory = tuple(sorted((model["name"], model.get("state")) for model in models))
    return Held(pid, in_memory, len(children), len(descriptors), len(threads))


def grown(live: LiveServer, before: Held | None) -> list[str]:
    """What the server holds more of than before, some seconds after the last request."""
    deadline = time.monotonic() + RETURN_S
    while before is not None and (now := held(live)) is not None and (problems := before.grown_to(now)):
        if time.monotonic() > deadline:
            return problems
        time.sleep(POLL_S)
    return []


def _runs(live: LiveServer) -> bool:
    return live.process is not None and live.process.poll() is None


def _audit(live: LiveServer) -> list[str]:
    if not (live.data_dir / "agentname.db").exists():
        return []
    runs = _runs(live)
    deleted = _deleted(live)
    accepted = {job: key for job, key in live.seen.accepted.items() if job not in deleted}
    problems = audit_folder(live.data_dir, accepted, at_rest=runs)
    return problems + _reserved(live) if runs else problems


def _deleted(live: LiveServer) -> set[str]:
    """The jobs that clients deleted, such as a browser, whose requests nobody recorded."""
    lines = Path(live.log.name).read_text().splitlines()
    return {found[1] for line in lines if "job deleted" in line and (found := JOB.search(line))}


def _reserved(live: LiveServer) -> list[str]:
    """L7: no memory is held for jobs when none runs."""
    try:
        queue, devices = live.get("/api/queue"), live.get("/api/gpu")
    except OSError:
        return ["L7 the server does not answer"]
    if queue.status != 200 or devices.status != 200:
        return ["L7 the server does not tell its queue and its memory"]
    problems = ["L7 jobs are running or waiting"] if queue.json["running"] or queue.json["length"] else []
    holders = [holder for device in devices.json["devices"] for holder in device["holders"]]
    return problems + [f"L7 memory is held: {each}" for each in holders if each["kind"] in ("activations", "leaked")]
