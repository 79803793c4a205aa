"""What videos cost a chat: time to the first token and between tokens, alone and while four clips render. Real server, CPU.

Bar of the plan: the 95th percentile of both at most twice that of the idle server.
"""

from __future__ import annotations

import http.client
import itertools
import json
import tempfile
import time
from pathlib import Path

import common

from tests.live_server import LiveServer

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


def measured(live: LiveServer, count: int) -> tuple[list[float], list[float]]:
    """(to the first piece, between pieces) of `count` chats one after another."""
    first, between = [], []
    for number in range(count):
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
    clips = [live.submit(**CLIP) for _ in range(CLIPS)]
    while any(live.get(f"/api/status/{clip}").json["stage"] != "denoising" for clip in clips):
        time.sleep(0.1)
    before = [live.get(f"/api/status/{clip}").json["step"] for clip in clips]
    began = time.perf_counter()
    busy = measured(live, chats)
    seconds = time.perf_counter() - began
    told = [live.get(f"/api/status/{clip}").json for clip in clips]
    report.add(
        "clips that still rendered at the end", sum(status["status"] == "processing" for status in told), least=CLIPS
    )
    steps = sum(status["step"] for status in told) - sum(before)
    report.add("denoising steps of the clips meanwhile", steps / seconds, "/s", least=0.01)
    for what, alone, beside in zip(("to the first token", "between tokens"), idle, busy, strict=True):
        for share, name in ((0.5, "median"), (0.95, "p95")):
            report.add(f"{what}, idle, {name}", common.percentile(alone, share) * 1e3, "ms")
            report.add(f"{what}, beside {CLIPS} clips, {name}", common.percentile(beside, share) * 1e3, "ms")
        ratio = common.percentile(beside, 0.95) / common.percentile(alone, 0.95)
        report.add(f"{what}, p95 beside clips over idle", ratio, "x", most=2)
    for clip in clips:
        live.post(f"/api/jobs/{clip}/cancel", {})


if __name__ == "__main__":
    main()
