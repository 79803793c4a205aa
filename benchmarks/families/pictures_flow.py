"""Flow transformers that take pictures: siblings of Stable Diffusion 3, Flux, Flux 2, Chroma, Bria, Sana, CogView."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffusers

from benchmarks.families import encoders, parts, vaes
from benchmarks.families.building import T5_CALL, components, flow, small
from benchmarks.families.dits_cross import SANA_CALL, cogview_4, sana
from benchmarks.families.dits_flow import (
    bria_fibo,
    chroma,
    flux,
    flux_2,
    flux_2_klein,
    stable_diffusion_3,
)
from benchmarks.families.family import Family


def flux_wider(n_channels: int) -> dict[str, Any]:
    """Flux whose transformer takes this many packed channels: those of the latents and of what is laid beside them."""
    usual = flux()
    return {**usual, "transformer": flux_transformer(n_channels)}


def flux_transformer(n_channels: int) -> Any:
    return small(
        diffusers.FluxTransformer2DModel,
        out_channels=16,
        in_channels=n_channels,
        attention_head_dim=16,
        joint_attention_dim=parts.TEXT_DIM,
        pooled_projection_dim=parts.TEXT_DIM,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def cogview_4_control() -> dict[str, Any]:
    transformer = small(
        diffusers.CogView4Transformer2DModel,
        in_channels=8,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
    )
    return {**cogview_4(), "transformer": transformer}


def hunyuan_image_refiner() -> dict[str, Any]:
    from diffusers.guiders import AdaptiveProjectedMixGuidance

    transformer = small(
        diffusers.HunyuanImageTransformer2DModel,
        in_channels=16,
        out_channels=8,
        num_attention_heads=4,
        patch_size=(1, 1, 1),
        text_embed_dim=32,
        rope_axes_dim=(4, 2, 2),
        guidance_embeds=True,
    )
    vae = diffusers.AutoencoderKLHunyuanImageRefiner(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        spatial_compression_ratio=8,
        temporal_compression_ratio=2,
    )
    return components(
        transformer, vae, flow(shift=7.0), encoders.qwen_vl(32), guider=AdaptiveProjectedMixGuidance(enabled=False)
    )


def compressed(flux_2_like: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Flux 2 with a VAE that halves a picture twice: the pipeline brings references to no smaller size."""
    return {**flux_2_like(), "vae": vaes.flux_2_vae(1, (4, 4, 4))}


klein = functools.partial(compressed, flux_2_klein)
SPRINT = functools.partial(sana, True)
TAKES_IMAGE: Any = {"takes": ("image",)}
TAKES_MASK: Any = {"takes": ("image", "mask")}
FLUX_CALL: Any = {"takes_negative": False, "call": T5_CALL}
KONTEXT_CALL: Any = {"takes_negative": False, "call": {**T5_CALL, "max_area": 32 * 32, "_auto_resize": False}}
FLUX_2: Any = {"size": 64, "other_size": 96, "takes_negative": False, "call": {"text_encoder_out_layers": [1]}}

FAMILIES = (
    Family("StableDiffusion3Img2ImgPipeline", "image", stable_diffusion_3, base="StableDiffusion3Pipeline",
           **TAKES_IMAGE),
    Family("StableDiffusion3InpaintPipeline", "image", functools.partial(stable_diffusion_3, 16),
           base="StableDiffusion3Pipeline", **TAKES_MASK),
    Family("StableDiffusion3PAGImg2ImgPipeline", "image", stable_diffusion_3, base="StableDiffusion3PAGPipeline",
           call={"pag_scale": 0.7}, **TAKES_IMAGE),
    Family("FluxImg2ImgPipeline", "image", flux, base="FluxPipeline", **FLUX_CALL, **TAKES_IMAGE),
    Family("FluxInpaintPipeline", "image", flux, base="FluxPipeline", **FLUX_CALL, **TAKES_MASK),
    Family("FluxKontextPipeline", "image", flux, **KONTEXT_CALL, **TAKES_IMAGE),
    Family("FluxKontextInpaintPipeline", "image", flux, base="FluxKontextPipeline", **KONTEXT_CALL, **TAKES_MASK),
    Family("FluxFillPipeline", "image", functools.partial(flux_wider, 48), **FLUX_CALL, **TAKES_MASK),
    Family("FluxControlPipeline", "image", functools.partial(flux_wider, 32), takes=("control",), **FLUX_CALL),
    Family("FluxControlImg2ImgPipeline", "image", functools.partial(flux_wider, 32), base="FluxControlPipeline",
           takes=("image", "control"), **FLUX_CALL),
    Family("FluxControlInpaintPipeline", "image", functools.partial(flux_wider, 32), base="FluxControlPipeline",
           takes=("image", "mask", "control"), **FLUX_CALL),
    Family("Flux2Pipeline", "image", functools.partial(compressed, flux_2), needs="torchvision",
           takes=("images",), **FLUX_2),
    Family("Flux2KleinPipeline", "image", klein, takes=("images",), **FLUX_2),
    Family("Flux2KleinKVPipeline", "image", klein, takes=("images",), **FLUX_2),
    Family("Flux2KleinInpaintPipeline", "image", klein, base="Flux2KleinPipeline", **FLUX_2, **TAKES_MASK),
    Family("ChromaImg2ImgPipeline", "image", chroma, base="ChromaPipeline", call=T5_CALL, **TAKES_IMAGE),
    Family("BriaFiboEditPipeline", "image", bria_fibo, other_size=64, prompt='{"edit_instruction": "%s"}',
           call={"_auto_resize": False}, **TAKES_IMAGE),
    Family("SanaSprintImg2ImgPipeline", "image", SPRINT, other_size=64, steps=(2,), takes_negative=False,
           base="SanaSprintPipeline", call=SANA_CALL, **TAKES_IMAGE),
    Family("CogView4ControlPipeline", "image", cogview_4_control, takes=("control",),
           call={"max_sequence_length": 64}),
    Family("HunyuanImageRefinerPipeline", "image", hunyuan_image_refiner, **TAKES_IMAGE),
)  # fmt: skip
