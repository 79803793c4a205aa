"""Compares results without HTTP: unrounded values of a lane in this process with the library's. Minutes faster."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.conformance_pictures import PictureJob, PictureJobs
from benchmarks.conformance_rows import Row
from benchmarks.families import FAMILIES, PICTURE_FAMILIES, Family
from models.checkpoint.pipeline_source import pipeline_source
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import StepCost
from tests.support.lanes.lane_play import direct, rendered, request
from tests.support.lanes.tiny_adapters import opens_on_cpu

PROMPTS = ("a red circle", "ocean waves at sunset, wide", "a city", "a green star on the left")
SAME_PICTURES = 2 / 255  # of [0, 1], of what is made of pictures
SAME_VALUES = 1e-3  # of [0, 1]; a few steps of random weights amplify rounding


def compare_in_lane(name: str) -> Row:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    family = FAMILIES[name]
    lane = DiffusionLane(family.build(), kind=family.kind)
    try:
        requests = [_request(name, i) for i in range(family.jobs)]
        expected = [_by_library(family, lane.pipeline, job) for job in requests]
        rendered(lane, requests)  # runs the batching proof, on results that ran alone
        done = rendered(lane, requests)
    except Exception as error:  # noqa: BLE001  # a failure is a row of the table
        return Row(name, family.kind, False, False, f"{type(error).__name__}: {str(error)[:100]}")
    gap = max(float(np.abs(done[r.id].frames - e).max()) for r, e in zip(requests, expected, strict=True))
    return Row(name, family.kind, gap <= SAME_VALUES, lane.merging == "on", "", math.ceil(gap * 255 - 0.5))


def compare_pictures_in_lane(name: str) -> Row:
    """Compares a class that is given pictures, beside jobs of other kinds over the same checkpoint."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    family = PICTURE_FAMILIES[name]
    try:
        with tempfile.TemporaryDirectory() as folder:
            pictures = PictureJobs(name, Path(folder))
            jobs = pictures.jobs()
            expected = [pictures.by_library(job) for job in jobs]
            done, shared = made_in_lane(pictures, jobs)
    except Exception as error:  # noqa: BLE001  # a failure is a row of the table
        return Row(name, family.kind, False, False, f"{type(error).__name__}: {str(error)[:200]}")
    gap = max(float(np.abs(done[job.request.id] - e).max()) for job, e in zip(jobs, expected, strict=True))
    return Row(name, family.kind, gap <= SAME_PICTURES, shared, "", math.ceil(gap * 255 - 0.5))


def made_in_lane(pictures: PictureJobs, jobs: Sequence[PictureJob]) -> tuple[Mapping[str, NDArray[np.float32]], bool]:
    """Returns what a lane makes of the jobs, and whether those of the class shared steps of denoising."""
    family = pictures.family
    lane = DiffusionLane(pictures.pipeline, kind=family.kind, open_adapter=opens_on_cpu(pictures.pipeline))
    requests = [job.request for job in jobs]
    try:
        rendered(lane, requests)  # runs the batching proof, on results that ran alone
        lane.take_costs()
        done = rendered(lane, requests)
        steps = [cost for cost in lane.take_costs() if isinstance(cost, StepCost) and cost.stage == "denoising"]
    finally:
        lane.close()
    together = {name for cost in steps if cost.rows > 1 for name in cost.request_ids}
    frames = {name: end.frames for name, end in done.items()}
    return frames, any(job.request.id in together for job in jobs if job.family is family)


def _by_library(family: Family, pipeline: Any, job: DiffusionRequest) -> NDArray[np.float32]:
    if family.in_tiles:
        pipeline.vae.enable_tiling()
    try:
        return direct(pipeline, job)
    finally:
        if family.in_tiles:
            pipeline.vae.disable_tiling()


def _request(name: str, i: int) -> DiffusionRequest:
    """Returns the i-th job. Prompt, seed, guidance and steps differ between jobs, and the last has another size."""
    family, source = FAMILIES[name], pipeline_source(name)
    assert source is not None
    guided = family.takes_guidance and "guidance_scale" in source.arguments
    values = {
        "prompt": PROMPTS[i],
        "seed": 1000 + i,
        "steps": family.steps[i % len(family.steps)],
        "width": family.other_size if i == len(PROMPTS) - 1 else family.size,
        "guidance_scale": (3.0, 5.5, 4.0, 7.0)[i] if guided else None,
        "negative_prompt": "blurred" if "negative_prompt" in source.arguments else None,
    }
    return request(family, str(i), **values)
