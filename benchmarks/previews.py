"""Measures the cost of previews: the same job with and without them in a lane of this process, in alternating pairs.

    python benchmarks/previews.py --json previews.json

Measures CPU time, which other programs on the machine change little. A job makes at most four previews per second, so
that the share does not grow with the speed of the model. Fitting the projection (once per model) and encoding the JPEG
(not on the device thread, and only for clients that listen) have rows of their own.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import common
import numpy as np
import torch

from models.loading.load import load
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion.preview import fit
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import Previewed
from server.jobs.encoding import jpeg

PAIRS = {"image": 7, "video": 5}
STEPS = {"image": 40, "video": 10}
BAR = 1.03
SCALES = ("vae_scale_factor", "vae_scale_factor_spatial")  # attributes with the pixels per latent, by pipeline


def main() -> None:
    arguments = common.arguments(
        __doc__ or "", ("--kinds", {"nargs": "+", "choices": ("image", "video"), "default": ["image", "video"]})
    )
    report = common.Report("previews")
    for kind in arguments.kinds:
        compare(report, kind)
    report.save(arguments.json)


def compare(report: common.Report, kind: str) -> None:
    spec = common.built_in(kind)
    if spec is None:
        report.add(f"built-in {kind} model", "not there")
        return
    lane: Any = load(spec, device="cpu")
    report.add(f"{kind}: fit of the projection, once", common.timed(lambda: fit(lane.pipeline.vae))[1], "s")
    plain = common.diffusion_request(spec, kind, 0, steps=STEPS[kind])
    watched = replace(plain, preview=True)
    shown = run(lane, watched)[1]
    run(lane, plain)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    previews = []
    for pair in range(PAIRS[kind]):
        for preview in (pair % 2 == 0, pair % 2 == 1):
            cpu_s, shown = run(lane, watched if preview else plain)
            seconds[preview].append(cpu_s)
            if preview:
                previews.append(len(shown))
            else:
                assert not shown, "a job without previews made some"
    report.add(f"{kind}: previews of a job, median", common.median(previews))
    report.add(f"{kind}: CPU of a step, without previews", common.median(seconds[False]) / STEPS[kind] * 1000, "ms")
    ratio = common.median(seconds[True]) / common.median(seconds[False])
    report.add(f"{kind}: CPU of a job with previews against without", ratio, "×", most=BAR)
    projected(report, lane, plain, kind, common.median(previews) / common.median(seconds[False]))
    colours = np.zeros((32, 32, 3), np.uint8) if not shown else shown[-1]
    jpeg(colours)  # the first call imports the encoder
    report.add(f"{kind}: a JPEG of it, beside the device thread", common.timed(lambda: jpeg(colours))[1] * 1000, "ms")


def projected(report: common.Report, lane: Any, request: DiffusionRequest, kind: str, a_second: float) -> None:
    """Measures the projection alone, which pairs of whole jobs cannot resolve on a busy machine."""
    channels = lane.pipeline.vae.config.latent_channels
    scale = next(getattr(lane.pipeline, name) for name in SCALES if hasattr(lane.pipeline, name))
    side = request.height // scale, request.width // scale
    latents = torch.randn(channels, *side)
    projection = fit(lane.pipeline.vae)
    assert projection is not None
    began = time.process_time()
    for _ in range(200):
        projection.colours(latents)
    cost_s = (time.process_time() - began) / 200
    report.add(f"{kind}: one projection", cost_s * 1000, "ms")
    report.add(f"{kind}: projections, of the CPU time of a job", cost_s * a_second, "", most=BAR - 1)


def run(lane: DiffusionLane, request: DiffusionRequest) -> tuple[float, list[Any]]:
    """Runs a job and returns its CPU seconds and its previews."""
    began = time.process_time()
    lane.admit(request)
    shown = []
    while lane.has_work():
        shown += [update.colours for update in lane.step() if isinstance(update, Previewed)]
    lane.take_costs()
    return time.process_time() - began, shown


if __name__ == "__main__":
    main()
