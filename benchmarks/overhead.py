"""What a single job costs through the whole server, against the same pipeline called directly in a script.

    python benchmarks/overhead.py --json overhead.json

Turn by turn: one job over HTTP (accepted, stored, run, encoded, written, fetched as status), then the same call in this
process, written to a PNG as a script would. Process starts and model loading are aside.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
import served
from PIL import Image

from models.loading import load
from pipelines.diffusion import DiffusionLane
from pipelines.interface import DiffusionRequest
from tests.lane_play import direct, rendered
from tests.live_server import LiveServer

TURNS = {"image": 9, "video": 3}
BAR = 1.05


def main() -> None:
    arguments = common.arguments(
        __doc__, ("--kinds", {"nargs": "+", "choices": ("image", "video"), "default": ["image", "video"]})
    )
    report = common.Report("overhead")
    with served.server() as (live, body), tempfile.TemporaryDirectory() as folder:
        body["deterministic"] = True  # the same bits on both sides
        for kind, wanted in (("image", body), ("video", {"type": "video", "prompt": "Ocean waves at sunset"})):
            if kind not in arguments.kinds:
                continue
            if kind == "video" and common.built_in("video") is None:
                report.add("built-in video model", "not there")
                continue
            compare(report, live, kind, wanted, Path(folder) / "direct.png")
    report.save(arguments.json)


def compare(report: common.Report, live: LiveServer, kind: str, body: dict[str, Any], out: Path) -> None:
    first = served.wait_done(live, live.submit(**body, seed=1))  # loads the model, and says what was run
    lane, wanted = same_call(kind, first["params"], body)
    pipeline = lane.pipeline
    pipeline.set_progress_bar_config(disable=True)

    def script() -> None:
        frames = direct(pipeline, wanted)
        Image.fromarray((frames[0] * 255).round().astype(np.uint8)).save(out)

    def through_the_server(seed: int) -> None:
        served.wait_done(live, live.submit(**body, seed=seed), quiet_s=0.8 * min(alone))

    script()
    rendered(lane, [wanted])
    through: list[float] = []
    in_lane: list[float] = []
    alone = [common.timed(script)[1]]
    for seed in range(TURNS[kind]):
        through.append(common.timed(lambda seed=seed: through_the_server(seed))[1])
        alone.append(common.timed(script)[1])
        in_lane.append(common.timed(lambda: rendered(lane, [wanted]))[1])
    report.add(f"{kind}: called directly, median of {TURNS[kind]}", common.median(alone), "s")
    report.add(f"{kind}: in a lane, without a server", common.median(in_lane), "s")
    report.add(f"{kind}: through the server", common.median(through), "s")
    report.add(
        f"{kind}: through the server against directly", common.median(through) / common.median(alone), "×", most=BAR
    )
    report.add(f"{kind}: the same of the quickest of each", min(through) / min(alone), "×")


def same_call(kind: str, params: dict[str, Any], body: dict[str, Any]) -> tuple[Any, DiffusionRequest]:
    """The lane's pipeline and the request, from the parameters the server returned."""
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
