"""U-Nets on pixels, or with an embedding made by a prior, that take pictures: DeepFloyd IF and Kandinsky 2 and 3."""

from __future__ import annotations

import functools
from typing import Any

from diffusers import DDPMScheduler

from benchmarks.families.building import like
from benchmarks.families.family import Family
from benchmarks.families.unets_prior import deep_floyd, kandinsky_3, kandinsky_21, kandinsky_22


def deep_floyd_enlarging() -> dict[str, Any]:
    usual = deep_floyd()
    unet = like(usual["unet"], in_channels=6, class_embed_type="timestep")
    return {**usual, "unet": unet, "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2")}


IMAGE: Any = {"takes": ("image",)}
MASK: Any = {"takes": ("image", "mask")}
ON_IF: Any = {"base": "IFPipeline", "size": 16, "other_size": 24, "call": {"clean_caption": False}}
# Its image-to-image takes only square pictures: it swaps width and height.
ON_21: Any = {"base": "KandinskyCombinedPipeline", "call": {"prior_num_inference_steps": 2}}
ON_22: Any = {"base": "KandinskyV22CombinedPipeline", "size": 64, "other_size": 128, "call": ON_21["call"]}
inpainting_21 = functools.partial(kandinsky_21, in_channels=9)
inpainting_22 = functools.partial(kandinsky_22, in_channels=9)

FAMILIES = (
    Family("IFImg2ImgPipeline", "image", deep_floyd, **ON_IF, **IMAGE),
    Family("IFInpaintingPipeline", "image", deep_floyd, **ON_IF, **MASK),
    Family("IFSuperResolutionPipeline", "image", deep_floyd_enlarging, size=16, other_size=24,
           call={"clean_caption": False}, **IMAGE),
    Family("Kandinsky3Img2ImgPipeline", "image", kandinsky_3, base="Kandinsky3Pipeline", **IMAGE),
    Family("KandinskyImg2ImgCombinedPipeline", "image", kandinsky_21, other_size=32, **ON_21, **IMAGE),
    Family("KandinskyInpaintCombinedPipeline", "image", inpainting_21, call={"prior_num_inference_steps": 2}, **MASK),
    Family("KandinskyV22Img2ImgCombinedPipeline", "image", kandinsky_22, **ON_22, **IMAGE),
    Family("KandinskyV22InpaintCombinedPipeline", "image", inpainting_22, size=64, other_size=128,
           call={"prior_num_inference_steps": 2}, **MASK),
)  # fmt: skip
