"""What videos cost a chat: time to the first token and between tokens, alone and while four clips render. Real server, CPU.

Bar of the plan: the 95th percentile of both at most twice that of the idle server.
"""

from __future__ import annotations

import http.client
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

from tests.support.live_server import LiveServer

CLIP = {"type": "video", "prompt": "Ocean waves at sunset", "steps": 100, "duration": 2}
CLIPS = 4
MAX_TOKENS = 32


def chat(live: LiveServer, question: str) -> list[float]:
    """Seconds from the request to each piece of text."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=300)
    body = json.dumps({"message": question, "max_tokens": MAX_TOKENS, "temperature": 0, "stream": True})
    headers = {"Authorization": f"Bearer {live.key}", "Content-Type": "application/json"}
    began = time.perf_counter()
    connection.request("POST", "/api/chat", body, headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    came, event = [], ""
    while line := response.readline():
        text = line.decode().strip()
        if text.startswith("event:"):
            event = text.removeprefix("event:").strip()
        elif text.startswith("data:") and event == "delta":
            came.append(time.perf_counter() - began)
    connection.close()
    return came


class Clips:
    """Four clips under way: where one has ended another takes its place."""

    def __init__(self, live: LiveServer) -> None:
        self._live = live
        self._ids = [live.submit(**CLIP) for _ in range(CLIPS)]
        self._ended_steps = self.replaced = 0
        while any(self._status(clip)["stage"] != "denoising" for clip in self._ids):
            time.sleep(0.1)
        self._began_steps = self._steps()

    def keep_up(self) -> None:
        for place, clip in enumerate(self._ids):
            status = self._status(clip)
            if status["status"] != "processing":
                assert status["status"] == "completed", status
                self._ended_steps += status["totalSteps"]
                self.replaced += 1
                self._ids[place] = self._live.submit(**CLIP)

    def steps(self) -> int:
        """Since they all denoise."""
        return self._steps() - self._began_steps

    def cancel(self) -> None:
        for clip in self._ids:
            self._live.post(f"/api/jobs/{clip}/cancel", {})

    def _steps(self) -> int:
        return self._ended_steps + sum(self._status(clip)["step"] or 0 for clip in self._ids)

    def _status(self, clip: str) -> dict[str, Any]:
        return dict(self._live.get(f"/api/status/{clip}").json)


def measured(
    live: LiveServer, count: int, meanwhile: Callable[[], None] = lambda: None
) -> tuple[list[float], list[float]]:
    """(to the first piece, between pieces) of `count` chats one after another."""
    first, between = [], []
    for number in range(count):
        meanwhile()
        came = chat(live, common.QUESTIONS[number % len(common.QUESTIONS)])
        first.append(came[0])
        between += [b - a for a, b in itertools.pairwise(came)]
    return first, between


def main() -> None:
    said = common.arguments(__doc__ or "", ("--chats", {"type": int, "default": 24}))
    report = common.Report("chat under video")
    with tempfile.TemporaryDirectory() as folder:
        live = LiveServer(Path(folder) / "data").start()
        try:
            measure(report, live, said.chats)
        finally:
            live.stop()
    report.save(said.json)


def measure(report: common.Report, live: LiveServer, chats: int) -> None:
    live.wait(live.submit(**CLIP | {"steps": 2}))
    measured(live, 2)  # both models are there and have been measured
    idle = measured(live, chats)
    clips = Clips(live)
    began = time.perf_counter()
    busy = measured(live, chats, clips.keep_up)
    report.add(
        "denoising steps of the clips meanwhile", clips.steps() / (time.perf_counter() - began), "/s", least=0.01
    )
    report.add("clips that ended meanwhile, each replaced by another", clips.replaced)
    for what, alone, beside in zip(("to the first token", "between tokens"), idle, busy, strict=True):
        for share, name in ((0.5, "median"), (0.95, "p95")):
            report.add(f"{what}, idle, {name}", common.percentile(alone, share) * 1e3, "ms")
            report.add(f"{what}, beside {CLIPS} clips, {name}", common.percentile(beside, share) * 1e3, "ms")
        ratio = common.percentile(beside, 0.95) / common.percentile(alone, 0.95)
        report.add(f"{what}, p95 beside clips over idle", ratio, "x", most=2)
    clips.cancel()


if __name__ == "__main__":
    main()
