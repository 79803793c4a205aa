"""Picture and video models at real size with the jobs whose times are published, and a tiny stand-in for each.

The published times are of one H100, from the baselines of SGLang's continuous integration: sgl-project/sglang,
python/sglang/multimodal_gen/test/server/perf_baselines/h100.json of 2026-08-16; prompts and sizes are in gpu_cases.py
and testcase_configs.py beside it. Its video jobs last one second, which is 25 frames for Wan 2.2 at 24 frames/s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from benchmarks.families import FAMILIES, Family
from pipelines.diffusion_interface import DiffusionRequest
from scripts import gpu_dits, gpu_models


@dataclass(frozen=True, slots=True)
class RealModel:
    family: str  # class name in diffusers: of the tiny stand-in
    build: Callable[[], Any]
    kind: Literal["image", "video"] = "image"
    width: int = 1024
    height: int = 1024
    num_frames: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    call: Mapping[str, object] = field(default_factory=dict)
    steps: int = 50  # of a whole job
    short: int = 2  # steps of the two jobs whose difference in time gives that of a step
    long: int = 8
    turns: int = 3
    widths: tuple[int, ...] = ()  # numbers of concurrent jobs to measure besides one
    published_job_s: float | None = None
    published_step_s: float | None = None  # median over the steps


MODELS = {
    # flux_image_t2i: 6693.01 ms, median step 130.22 ms.
    "flux": RealModel(
        "FluxPipeline", gpu_dits.flux_1_dev, guidance_scale=3.5, published_job_s=6.69, published_step_s=0.130
    ),
    # zimage_image_t2i: 0.91 s with 9 steps.
    "zimage": RealModel(
        "ZImagePipeline", gpu_dits.z_image_turbo, guidance_scale=0.0, steps=9, long=9, published_job_s=0.91
    ),
    # flux_2_klein_image_t2i: 0.40 s with 4 steps.
    "klein": RealModel(
        "Flux2KleinPipeline", gpu_dits.flux_2_klein, guidance_scale=1.0, steps=4, long=4, turns=5, published_job_s=0.40
    ),
    # qwen_image_t2i: 12770.15 ms, median step 249.01 ms: two forwards a step, for its guidance.
    "qwen": RealModel(
        "QwenImagePipeline",
        gpu_dits.qwen_image,
        negative_prompt=" ",
        call={"true_cfg_scale": 4.0},
        long=6,
        published_job_s=12.77,
        published_step_s=0.249,
    ),
    # wan2_2_ti2v_5b: 15.6 s with 50 steps, of which denoising 12.70 s and decoding 2.17 s; two forwards a step.
    "wan22": RealModel(
        "WanPipeline",
        gpu_dits.wan_2_2_5b,
        kind="video",
        width=1280,
        height=704,
        num_frames=25,
        guidance_scale=5.0,
        long=6,
        turns=2,
        published_job_s=15.6,
        published_step_s=0.254,
    ),
    "sdxl": RealModel(
        "StableDiffusionXLPipeline",
        gpu_models.stable_diffusion_xl,
        guidance_scale=5.0,
        steps=30,
        short=3,
        long=13,
        widths=(2, 4, 8),
    ),
}


def build(name: str, device: str, *, tiny: bool) -> Any:
    """Builds the pipeline on the device: of real size in bfloat16, or its tiny stand-in in float32."""
    model = MODELS[name]
    if tiny:
        return FAMILIES[model.family].build().to(device)
    pipeline = gpu_dits.built(device, torch.bfloat16, model.build)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def request(name: str, job: str, steps: int, *, tiny: bool) -> DiffusionRequest:
    """A job of this model. Its prompt has the job's name in it, because lanes remember encoded prompts."""
    model = MODELS[name]
    family: Family = FAMILIES[model.family]
    size: dict[str, Any] = {
        "width": family.size if tiny else model.width,
        "height": family.size if tiny else model.height,
        "num_frames": family.num_frames if tiny else model.num_frames,
        "guidance_scale": 4.0 if tiny else model.guidance_scale,
        "negative_prompt": None if tiny else model.negative_prompt,
        "call": family.call if tiny else model.call,
    }
    return DiffusionRequest(id=job, prompt=f"a red circle on blue, {job}", steps=steps, seed=7, **size)


def denoiser(pipeline: Any) -> torch.nn.Module:
    found = getattr(pipeline, "transformer", None) or pipeline.unet
    assert isinstance(found, torch.nn.Module)
    return found
