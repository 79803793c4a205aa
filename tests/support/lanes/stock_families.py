"""The eight families of stock pipelines that the tests use, and builders of tiny models of some of them."""

from __future__ import annotations

from benchmarks.families import FAMILIES as ALL
from benchmarks.families import Family
from benchmarks.families.parts import CLIP_TOKENS, clip_tokenizer, t5_tokenizer

FAMILIES = {
    "sd15": ALL["StableDiffusionPipeline"],
    "sdxl": ALL["StableDiffusionXLPipeline"],
    "sd3": ALL["StableDiffusion3Pipeline"],
    "flux": ALL["FluxPipeline"],
    "pixart": ALL["PixArtSigmaPipeline"],
    "wan": ALL["WanPipeline"],
    "ltx": ALL["LTXPipeline"],
    "cogvideox": ALL["CogVideoXPipeline"],
}
stable_diffusion = FAMILIES["sd15"].build
pixart_sigma = FAMILIES["pixart"].build
wan = FAMILIES["wan"].build

__all__ = [
    "CLIP_TOKENS",
    "FAMILIES",
    "Family",
    "clip_tokenizer",
    "pixart_sigma",
    "stable_diffusion",
    "t5_tokenizer",
    "wan",
]
