"""Compares one job through the real server with the stock pipeline called directly, at real size.

    python benchmarks/served.py --out served.json            SDXL's shape, on a GPU with 40 GB
    python benchmarks/served.py --out served.json --tiny     a tiny model, also without a GPU

A checkpoint with random weights is saved to a folder in memory, from where the server loads it in a process of its own.
The pipeline of this process takes turns with it: eager, and with compiled blocks. Both sides write a PNG. The server
is measured twice: after its first job, and once it says that its blocks run compiled. Bar: 1.05 × of the pipeline
called directly, eager against eager and compiled against compiled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

from server_client import Connection  # noqa: E402  (needs the path above)

from benchmarks.compiled_sides import StockCompile  # noqa: E402
from benchmarks.gpu_results import Results, median, timed  # noqa: E402
from benchmarks.real_models import MODELS, build, denoiser, request  # noqa: E402
from pipelines import device as device_module  # noqa: E402
from server.process.libraries import stop_compilers  # noqa: E402
from tests.support.http.live_server import LiveServer  # noqa: E402
from tests.support.lanes.lane_play import direct  # noqa: E402

BAR = 1.05
TINY_SIZE = 64  # the server takes nothing smaller
MEMORY = Path("/dev/shm")  # noqa: S108  # a checkpoint of gigabytes is read from memory, as from a warm page cache
COMPILED_WAIT_S = 60.0
POLL_S = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="the JSON file to write, after every turn")
    parser.add_argument("--family", choices=list(MODELS), default="sdxl", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="of a job (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--eager", action="store_true", help="do not compile here, and do not wait for the server to")
    parser.add_argument("--seconds", type=float, default=150.0, help="time limit (default: %(default)s)")
    parser.add_argument("--device", default=device_module.default_device(), help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="a tiny model")
    arguments = parser.parse_args()

    results = Results("served", arguments.out, arguments.device, seconds=arguments.seconds, tiny=arguments.tiny)
    in_memory = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory) as folder, results.part(arguments.family):
        Comparison(arguments, results, Path(folder)).run()
    stop_compilers()


class Comparison:
    """The pipeline here, the server over there, and what was measured of both."""

    def __init__(self, arguments: argparse.Namespace, results: Results, folder: Path) -> None:
        self.arguments, self.results, self.folder = arguments, results, folder
        self.name, self.device, self.tiny = arguments.family, arguments.device, arguments.tiny
        self._jobs = 0
        self.pipeline, build_s = timed(self.device, lambda: build(self.name, self.device, tiny=self.tiny))
        _, save_s = timed(self.device, lambda: self.pipeline.save_pretrained(folder / "checkpoint"))
        self.record(build_s=round(build_s, 2), save_s=round(save_s, 2))

    def record(self, **facts: Any) -> None:
        self.results.record(self.name, **facts)

    def run(self) -> None:
        self.called_directly()
        began = time.perf_counter()
        live = self.server().start()
        self.record(server_start_s=round(time.perf_counter() - began, 2))
        try:
            asyncio.run(self.compare(live))
        finally:
            began = time.perf_counter()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is ended then
                live.stop()
            self.record(server_stop_s=round(time.perf_counter() - began, 2))

    def server(self) -> LiveServer:
        """A server with the checkpoint as its default picture model."""
        data_dir = self.folder / "data"
        data_dir.mkdir()
        model = MODELS[self.name]
        (data_dir / "models.toml").write_text(
            f'[models.real]\ntype = "{model.kind}"\nsource = "{self.folder / "checkpoint"}"\ndefault = true\n'
        )
        return LiveServer(data_dir)

    async def compare(self, live: LiveServer) -> None:
        async with Connection(live) as connection:
            for place in ("first", "second"):
                began = time.perf_counter()
                await self.through_the_server(connection)
                self.record(**{f"{place}_job_s": round(time.perf_counter() - began, 3)})
            await self.in_turns("eager", connection)
            if self.arguments.eager:
                return
            compiled = StockCompile(denoiser(self.pipeline))
            compiled.switch(True)
            self.record(compile_here_s=round(timed(self.device, self.called_directly)[1], 2))
            self.record(compiled_there=await self.wait_until_compiled(live, connection))
            await self.in_turns("compiled", connection)

    async def in_turns(self, mode: str, connection: Connection) -> None:
        """Alternates between the sides. A ratio is that of a job to the direct calls before and after it."""
        through: list[float] = []
        alone = [timed(self.device, self.called_directly)[1]]
        for _ in range(self.arguments.turns):
            self.results.check_time()
            began = time.perf_counter()
            await self.through_the_server(connection)
            through.append(time.perf_counter() - began)
            alone.append(timed(self.device, self.called_directly)[1])
            ratio = median(2 * one / (a + b) for one, a, b in zip(through, alone, alone[1:], strict=False))
            facts = {"server_s": round(median(through), 4), "direct_s": round(median(alone), 4)}
            self.record(**{mode: {**facts, "turns": len(through), "ratio": round(ratio, 3), "ok": ratio <= BAR}})

    async def wait_until_compiled(self, live: LiveServer, connection: Connection) -> dict[str, Any]:
        """Runs jobs until the server notes that the blocks run compiled. Returns these notes and the seconds."""
        began = time.perf_counter()
        while True:
            reply = live.get("/api/models/real").json
            notes = [note for note in reply.get("notes") or [] if "ompiled" in note]
            waited = round(time.perf_counter() - began, 1)
            if notes or waited > min(COMPILED_WAIT_S, self.results.seconds_left / 2) or self.tiny:
                return {"waited_s": waited, "notes": notes}
            await self.through_the_server(connection)
            await asyncio.sleep(POLL_S)

    async def through_the_server(self, connection: Connection) -> None:
        job = self.request()
        body = {
            "type": MODELS[self.name].kind,
            "model": "real",
            "prompt": job.prompt,
            "width": job.width,
            "height": job.height,
            "steps": job.steps,
            "guidance_scale": job.guidance_scale,
            "seed": job.seed,
        }
        await connection.ended(await connection.submit(body))

    def called_directly(self) -> None:
        frames = direct(self.pipeline, self.request())
        Image.fromarray((frames[0] * 255).round().astype(np.uint8)).save(self.folder / "direct.png")

    def request(self) -> Any:
        """The next job, the same on both sides but for its prompt: a server remembers encoded prompts."""
        self._jobs += 1
        job = request(self.name, f"job {self._jobs}", self.arguments.steps, tiny=self.tiny)
        if not self.tiny:
            return job
        return replace(job, width=TINY_SIZE, height=TINY_SIZE)


if __name__ == "__main__":
    main()
