"""U-Nets: Stable Diffusion and its relatives, AnimateDiff, and the first text-to-video model."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextModelWithProjection

from benchmarks.families import parts, vaes
from benchmarks.families.family import Family

SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def sd_unet(**options: Any) -> UNet2DConditionModel:
    usual = {
        "sample_size": 16,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": parts.TEXT_DIM,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**usual, **options})


def stable_diffusion(**changes: Any) -> dict[str, Any]:
    usual = {
        "vae": vaes.small_vae(),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "unet": sd_unet(),
        "scheduler": PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear"),
        "safety_checker": None,
        "feature_extractor": None,
    }
    return {**usual, **changes}


def with_ddim(**changes: Any) -> dict[str, Any]:
    return stable_diffusion(scheduler=DDIMScheduler(**SCALED_LINEAR, clip_sample=False), **changes)


def xl_unet(**options: Any) -> UNet2DConditionModel:
    usual = {
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "transformer_layers_per_block": (1, 2),
        "projection_class_embeddings_input_dim": 6 * 8 + parts.TEXT_DIM,
        "cross_attention_dim": 2 * parts.TEXT_DIM,
    }
    return sd_unet(**{**usual, **options})


def stable_diffusion_xl(**changes: Any) -> dict[str, Any]:
    usual = {
        "vae": vaes.small_vae(),
        "text_encoder": parts.clip_text(),
        "text_encoder_2": parts.clip_text(CLIPTextModelWithProjection),
        "tokenizer": parts.clip_tokenizer(),
        "tokenizer_2": parts.clip_tokenizer(),
        "unet": xl_unet(),
        "scheduler": EulerDiscreteScheduler(**SCALED_LINEAR, timestep_spacing="leading", steps_offset=1),
    }
    return {**usual, **changes}


def kolors() -> dict[str, Any]:
    unet = xl_unet(cross_attention_dim=parts.TEXT_DIM, encoder_hid_dim=parts.TEXT_DIM, encoder_hid_dim_type="text_proj")
    return {
        "vae": vaes.small_vae(),
        "text_encoder": parts.chatglm_text(),
        "tokenizer": parts.chatglm_tokenizer(),
        "unet": unet,
        "scheduler": EulerDiscreteScheduler(**SCALED_LINEAR, timestep_spacing="leading", steps_offset=1),
    }


def latent_consistency() -> dict[str, Any]:
    return stable_diffusion(
        unet=sd_unet(time_cond_proj_dim=32),
        scheduler=diffusers.LCMScheduler(**SCALED_LINEAR, clip_sample=False, set_alpha_to_one=False),
        requires_safety_checker=False,
    )


def latent_diffusion() -> dict[str, Any]:
    return {
        "vqvae": vaes.small_vae(),
        "bert": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "unet": sd_unet(),
        "scheduler": DDIMScheduler(**SCALED_LINEAR, clip_sample=False),
    }


def motion_adapter(**options: Any) -> Any:
    return diffusers.MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=4,
        **options,
    )


def animate_diff() -> dict[str, Any]:
    usual = with_ddim(motion_adapter=motion_adapter())
    return {name: part for name, part in usual.items() if name != "safety_checker"} | {"image_encoder": None}


def animate_diff_xl() -> dict[str, Any]:
    return stable_diffusion_xl(
        motion_adapter=motion_adapter(use_motion_mid_block=False),
        scheduler=DDIMScheduler(**SCALED_LINEAR, clip_sample=False),
    )


def text_to_video() -> dict[str, Any]:
    unet = diffusers.UNet3DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=parts.TEXT_DIM,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    usual = with_ddim(unet=unet)
    return {name: usual[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}


SD = functools.partial(stable_diffusion, requires_safety_checker=False)
DDIM = functools.partial(with_ddim, requires_safety_checker=False)
SAG = functools.partial(DDIM, image_encoder=None)
XL = functools.partial(stable_diffusion_xl, add_watermarker=False)

FAMILIES = (
    Family("StableDiffusionPipeline", "image", SD),
    Family("StableDiffusionPAGPipeline", "image", DDIM),
    Family("StableDiffusionSAGPipeline", "image", SAG),
    Family("StableDiffusionPanoramaPipeline", "image", DDIM),
    Family("SemanticStableDiffusionPipeline", "image", DDIM),
    Family("LatentConsistencyModelPipeline", "image", latent_consistency, takes_negative=False),
    Family("LDMTextToImagePipeline", "image", latent_diffusion, takes_negative=False),
    Family("StableDiffusionXLPipeline", "image", XL),
    Family("StableDiffusionXLPAGPipeline", "image", XL),
    Family("KolorsPipeline", "image", kolors, call={"max_sequence_length": 32}),
    Family("KolorsPAGPipeline", "image", kolors, call={"max_sequence_length": 32}),
    Family("AnimateDiffPipeline", "video", animate_diff, num_frames=4),
    Family("AnimateDiffPAGPipeline", "video", animate_diff, num_frames=4),
    Family("AnimateDiffSDXLPipeline", "video", animate_diff_xl, num_frames=4),
    Family("TextToVideoSDPipeline", "video", text_to_video, num_frames=4),
)  # fmt: skip
