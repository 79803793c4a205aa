"""Adds damaged checkpoints to one running server, uses each once, and shows that the server lives and serves on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import common

from benchmarks.damage_copy import CHECKPOINT
from benchmarks.damage_families import SOUND, Sound
from benchmarks.damage_sides import N_TOKENS, NAME, QUESTION
from benchmarks.damage_verdict import Case, damage
from tests.support.http.live_server import LiveServer, Reply

ENV = {"AGENTNAME_DEVICE": "cpu", "AGENTNAME_TORCH_THREADS": "1", "OMP_NUM_THREADS": "1"}
ENDS = ("completed", "failed", "canceled")


class ServerDown(Exception):
    """The server answered with an error of its own, or is another process than before."""


def run_over_http(cases: Iterable[Case], scratch: Path, seed: int, report: common.Report) -> None:
    """Reports how the cases ended, and what the server did wrong. scratch: holds the sound checkpoints."""
    data_dir = scratch / "data"
    (data_dir / "models").mkdir(parents=True)
    live = LiveServer(data_dir, env=ENV).start()
    pid, ends, faults = live.server_pid(), Counter[str](), 0
    try:
        for case in cases:
            place = data_dir / "models" / f"case-{case.number}"
            sound, edit, what = damage(case, seed, scratch / case.sound, scratch / f"case-{case.number}")
            try:
                end = _use(live, sound, scratch / f"case-{case.number}" / CHECKPOINT)
                _is_alive(live, pid)
            except (ServerDown, AssertionError, OSError) as error:
                end, faults = f"FAULT {type(error).__name__}: {error}", faults + 1
                live.wait_ready()
                pid = live.server_pid()
            print(f"{case.number:5} {case.sound:18} {edit:24} {what[:100]}\n      {end[:300]}", flush=True)
            ends[end.split(":")[0] if not end.startswith("FAULT") else "FAULT"] += 1
            shutil.move(scratch / f"case-{case.number}" / CHECKPOINT, place)  # the watched folder
        for sound in SOUND:
            if (scratch / sound.name).is_dir():
                report.add(f"{sound.name} at the end", _use(live, sound, scratch / sound.name / CHECKPOINT)[:12])
        _is_alive(live, pid)
        live.stop()
        live.start()
        report.add("starts with all of them in its models folder", int(live.get("/healthz").status == 200), least=1)
    finally:
        live.stop()
    for end, count in sorted(ends.items()):
        report.add(f"over HTTP: {end}", count)
    report.add("faults of the server", faults, most=0)


def _use(live: LiveServer, sound: Sound, folder: Path) -> str:
    """Checks, adds, lists, uses and removes the model. Returns how that ended."""
    entry = sound.entry(str(folder))
    _sound_reply(live.post("/api/models/check", {"source": entry["source"]}))
    added = _sound_reply(live.post("/api/models", {"name": NAME, **entry}))
    _sound_reply(live.get("/api/models"))
    if added.status != 200:
        return f"refused: {added.json['error']}"
    try:
        _sound_reply(live.get(f"/api/models/{NAME}"))
        return _job(live, sound)
    finally:
        _sound_reply(live.request("DELETE", f"/api/models/{NAME}"))


def _job(live: LiveServer, sound: Sound) -> str:
    if sound.family is None:
        body = {"model": NAME, "message": QUESTION, "max_tokens": N_TOKENS, "temperature": 0}
        reply = live.post("/api/chat", body)
        if reply.status in (502, 503):  # a load that failed is told so
            assert reply.json["error"], reply.body
            return f"load failed: {reply.json['error']}"
        return "completed" if _sound_reply(reply).status == 200 else f"refused as a job: {reply.json['error']}"
    body: dict[str, Any] = {"type": sound.kind, "model": NAME, "prompt": QUESTION, "seed": 1}
    body |= {"width": sound.family.size, "height": sound.family.size, "steps": 2}
    if sound.family.num_frames is not None:
        body |= {"num_frames": sound.family.num_frames, "output_format": "frames"}
    reply = _sound_reply(live.post("/api/generate", body))
    if reply.status != 200:
        return f"refused as a job: {reply.json['error']}"
    status = live.wait(reply.json["jobId"])
    if status["status"] == "completed":
        return "completed"
    if not (status["error"] or {}).get("message"):
        raise ServerDown(f"a job {status['status']} without a reason")
    return f"job failed: {status['error']['message']}"


def _sound_reply(reply: Reply) -> Reply:
    """Raises `ServerDown` for an error of the server. A refusal is none."""
    if reply.status >= 500:
        raise ServerDown(f"{reply.status}: {reply.body[:200]!r}")
    return reply


def _is_alive(live: LiveServer, pid: int) -> None:
    if live.get("/healthz").status != 200 or live.server_pid() != pid:
        raise ServerDown("another process serves, or none")
