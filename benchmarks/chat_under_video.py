"""Measures the time to a chat's first token and between tokens on the real server, idle and while four clips render.

    python benchmarks/chat_under_video.py --json chat.json

Bar: the 95th percentile of both is at most twice that of the idle server.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

from tests.support.http.live_server import LiveServer

CLIP = {"type": "video", "prompt": "Ocean waves at sunset", "steps": 100, "duration": 2}
CLIPS = 4
MAX_TOKENS = 32


class Clips:
    """Keeps four clips rendering: `keep_up` replaces those that have ended."""

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
        """Returns the denoising steps since all clips have started to denoise."""
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
    """Runs chats one after another. Returns the seconds to each first piece of text, and those between pieces."""
    first, between = [], []
    for number in range(count):
        meanwhile()
        question = common.QUESTIONS[number % len(common.QUESTIONS)]
        pieces_s = live.chat(question, max_tokens=MAX_TOKENS, temperature=0)
        first.append(pieces_s[0])
        between += [b - a for a, b in itertools.pairwise(pieces_s)]
    return first, between


def main() -> None:
    chats = {"type": int, "default": 24, "help": "chats to measure (default: 24)"}
    arguments = common.arguments(__doc__ or "", ("--chats", chats))
    report = common.Report("chat under video")
    with tempfile.TemporaryDirectory() as folder:
        live = LiveServer(Path(folder) / "data").start()
        try:
            measure(report, live, arguments.chats)
        finally:
            live.stop()
    report.save(arguments.json)


def measure(report: common.Report, live: LiveServer, chats: int) -> None:
    live.wait(live.submit(**CLIP | {"steps": 2}))
    measured(live, 2)  # both models are loaded and measured
    idle = measured(live, chats)
    clips = Clips(live)
    began = time.perf_counter()
    busy = measured(live, chats, clips.keep_up)
    report.add(
        "denoising steps of the clips meanwhile", clips.steps() / (time.perf_counter() - began), "/s", least=0.01
    )
    report.add("clips that ended meanwhile, each replaced by another", clips.replaced)
    for what, alone, with_clips in zip(("to the first token", "between tokens"), idle, busy, strict=True):
        for share, name in ((0.5, "median"), (0.95, "p95")):
            report.add(f"{what}, idle, {name}", common.percentile(alone, share) * 1e3, "ms")
            report.add(f"{what}, beside {CLIPS} clips, {name}", common.percentile(with_clips, share) * 1e3, "ms")
        ratio = common.percentile(with_clips, 0.95) / common.percentile(alone, 0.95)
        report.add(f"{what}, p95 beside clips over idle", ratio, "x", most=2)
    clips.cancel()


if __name__ == "__main__":
    main()
