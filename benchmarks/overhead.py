"""Compares a single job through the whole server with a direct call of the same pipeline in a script.

    python benchmarks/overhead.py --json overhead.json

Alternates between a job over HTTP (accepted, stored, run, encoded, written, its end reported by its event stream) and
the same call in this process, written to a PNG as a script would. The ratio is the median, over the turns, of a job to
the direct calls before and after it, because a machine has slower minutes. Process starts and model loading do not
count.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
import server_client
from PIL import Image
from server_client import Connection

from models.loading.load import load
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest
from tests.support.http.live_server import LiveServer
from tests.support.lanes.lane_play import direct, rendered

TURNS = {"image": 31, "video": 5}
BAR = 1.05


def main() -> None:
    arguments = common.arguments(
        __doc__, ("--kinds", {"nargs": "+", "choices": ("image", "video"), "default": ["image", "video"]})
    )
    report = common.Report("overhead")
    with server_client.server() as (live, body), tempfile.TemporaryDirectory() as folder:
        body["deterministic"] = True  # the same bits on both sides
        for kind, request in (("image", body), ("video", {"type": "video", "prompt": "Ocean waves at sunset"})):
            if kind not in arguments.kinds:
                continue
            if kind == "video" and common.built_in("video") is None:
                report.add("built-in video model", "not there")
                continue
            asyncio.run(compare(report, live, kind, request, Path(folder) / "direct.png"))
    report.save(arguments.json)


async def compare(report: common.Report, live: LiveServer, kind: str, body: dict[str, Any], out: Path) -> None:
    async with Connection(live) as connection:

        async def through_the_server(turn: int) -> dict[str, Any]:
            return await connection.ended(
                await connection.submit({**body, "prompt": server_client.new_prompt(body, turn), "seed": max(0, turn)})
            )

        first = await through_the_server(-1)  # loads the model and returns the parameters
        lane, job = same_call(kind, first["params"], body)
        pipeline = lane.pipeline
        pipeline.set_progress_bar_config(disable=True)

        def script(turn: int) -> None:
            frames = direct(pipeline, replace(job, prompt=server_client.new_prompt(body, turn)))
            Image.fromarray((frames[0] * 255).round().astype(np.uint8)).save(out)

        script(0)
        rendered(lane, [job])
        through, in_lane, alone = [], [], [common.timed(lambda: script(0))[1]]
        for turn in range(TURNS[kind]):
            common.settle()
            began = time.perf_counter()
            await through_the_server(turn)
            through.append(time.perf_counter() - began)
            common.settle()
            alone.append(common.timed(lambda turn=turn: script(turn))[1])
            common.settle()
            request = replace(job, prompt=server_client.new_prompt(body, turn))
            in_lane.append(common.timed(lambda request=request: rendered(lane, [request]))[1])

    def over(side: list[float]) -> float:
        """Returns the median ratio of a turn to the direct calls before and after it."""
        return common.median(2 * one / (a + b) for one, a, b in zip(side, alone, alone[1:], strict=False))

    report.add(f"{kind}: called directly, median of {TURNS[kind] + 1}", common.median(alone), "s")
    report.add(f"{kind}: in a lane, without a server", common.median(in_lane), "s")
    report.add(f"{kind}: in a lane against directly, in turns", over(in_lane), "×", most=BAR)
    report.add(f"{kind}: through the server", common.median(through), "s")
    report.add(f"{kind}: through the server against directly, in turns", over(through), "×", most=BAR)
    report.add(f"{kind}: the same of the quickest of each", min(through) / min(alone), "×")


def same_call(kind: str, params: dict[str, Any], body: dict[str, Any]) -> tuple[Any, DiffusionRequest]:
    """Returns a lane and a request with the parameters that the server returned."""
    spec = common.built_in(kind)
    lane: Any = DiffusionLane(common.stand_in(), kind="image") if spec is None else load(spec, device="cpu")
    call = common.STAND_IN_CALL if spec is None else spec.call
    return lane, DiffusionRequest(
        id="direct",
        prompt=body["prompt"],
        negative_prompt=params.get("negativePrompt"),
        width=params["width"],
        height=params["height"],
        num_frames=params.get("numFrames") if kind == "video" else None,
        steps=params["steps"],
        guidance_scale=params.get("guidanceScale"),
        seed=1,
        call=call,
    )


if __name__ == "__main__":
    main()
