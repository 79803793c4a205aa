"""Measures the time until a second start is ready, and the memory with an image, a video and a chat model loaded.

python benchmarks/start.py --json start.json
"""

from __future__ import annotations

from pathlib import Path

import common
import server_client

from tests.support.http.live_server import LiveServer

GIB = 2**30


def main() -> None:
    arguments = common.arguments(__doc__)
    report = common.Report("start")
    with server_client.server() as (live, body):
        live.stop()
        _, seconds = common.timed(live.start)
        report.add("ready on the second start", seconds, "s", most=10)
        report.add("resident set, no model loaded", resident_bytes(live) / GIB, "GiB")
        _, seconds = common.timed(lambda: server_client.wait_done(live, live.submit(**body)))
        report.add("first picture, its model loaded for it", seconds, "s")
        if common.built_in("video") is not None:
            _, seconds = common.timed(
                lambda: server_client.wait_done(live, live.submit(type="video", prompt="Ocean waves at sunset"))
            )
            report.add("first clip, its model loaded for it", seconds, "s")
        _, seconds = common.timed(lambda: server_client.chat(live, common.QUESTIONS[0], 32))
        report.add("first chat, its model loaded for it", seconds, "s")
        report.add("resident set, all loaded", resident_bytes(live) / GIB, "GiB", most=2.5)
    report.save(arguments.json)


def resident_bytes(live: LiveServer) -> int:
    """Returns the resident bytes of the serving process and its supervisor together."""
    assert live.process is not None
    pids = (live.process.pid, live.server_pid())
    fields = [line.split() for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(field[1]) * 1024 for field in fields if field[0] == "VmRSS:")


if __name__ == "__main__":
    main()
