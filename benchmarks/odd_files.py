"""Sends the corpus of odd and hostile files over HTTP, and prints how long the answers take, and the memory.

    python benchmarks/odd_files.py

The table shows the slowest refusals, the slowest files that are taken, and the peak memory of the process that decodes.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.http.front import _decoder, front
from tests.support.http.http_front import listening
from tests.support.odd_files import all_cases

SLOWEST = 8


async def main() -> None:
    found: list[tuple[float, int, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        async with front(Path(folder) / "x") as f, listening(f) as url, httpx.AsyncClient(timeout=60) as client:
            for case in all_cases():
                before = time.perf_counter()
                reply = await client.post(f"{url}/api/files", content=case.data, headers=f.auth("enterprise"))
                found.append((time.perf_counter() - before, reply.status_code, case.name))
            [process] = _decoder()._all
            status = Path(f"/proc/{process._process.pid}/status").read_text()  # noqa: ASYNC240  # not a disk
    peaks = [line for line in status.splitlines() if line.startswith(("VmHWM", "VmPeak"))]
    print("peak memory of the last process that decodes: " + ", ".join(" ".join(line.split()) for line in peaks))
    print(
        f"{len(found)} files: " + ", ".join(f"{n} × {status}" for status, n in Counter(s for _, s, _ in found).items())
    )
    for title, statuses in (("refused", range(400, 600)), ("taken", range(200, 300))):
        slowest = sorted((each for each in found if each[1] in statuses), reverse=True)[:SLOWEST]
        print(f"\nslowest that were {title}:")
        for seconds, status, name in slowest:
            print(f"  {seconds:6.3f} s  {status}  {name}")


if __name__ == "__main__":
    asyncio.run(main())
