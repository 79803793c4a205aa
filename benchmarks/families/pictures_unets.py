"""U-Nets that take pictures: image-to-image, inpainting, editing, variations, depth, enlarging, and SVD."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import transformers
from diffusers import DDPMScheduler, EulerDiscreteScheduler

from benchmarks.families import parts, vaes
from benchmarks.families.family import Family
from benchmarks.families.unets import (
    DDIM,
    SCALED_LINEAR,
    SD,
    XL,
    kolors,
    latent_consistency,
    sd_unet,
    stable_diffusion,
    xl_unet,
)
from benchmarks.families.unets_prior import stable_unclip

XL_REFINER = functools.partial(XL, requires_aesthetics_score=False)


def instruct_pix2pix() -> dict[str, Any]:
    return {**SD(unet=sd_unet(in_channels=8)), "image_encoder": None}


def instruct_pix2pix_xl() -> dict[str, Any]:
    return XL(unet=xl_unet(in_channels=8))


def depth_estimator() -> Any:
    config = transformers.DPTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        reassemble_factors=[4, 2, 1, 0.5],
        is_hybrid=False,
    )
    return transformers.DPTForDepthEstimation(config)


def depth_to_image() -> dict[str, Any]:
    usual = SD(unet=sd_unet(in_channels=5))
    shared = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    return {
        **{name: usual[name] for name in shared},
        "depth_estimator": depth_estimator(),
        "feature_extractor": transformers.DPTImageProcessorPil(size={"height": 32, "width": 32}),
    }


def image_variation() -> dict[str, Any]:
    usual = stable_diffusion(requires_safety_checker=False)
    shared = ("vae", "unet", "scheduler", "safety_checker", "requires_safety_checker")
    return {
        **{name: usual[name] for name in shared},
        "image_encoder": parts.clip_vision(),
        "feature_extractor": parts.clip_image_processor(),
    }


def upscale() -> dict[str, Any]:
    usual = DDIM(unet=sd_unet(in_channels=7, num_class_embeds=1000), vae=vaes.small_vae(4, (8, 8, 8)))
    shared = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    low_resolution = DDPMScheduler(**SCALED_LINEAR)
    return {**{name: usual[name] for name in shared}, "low_res_scheduler": low_resolution, "max_noise_level": 350}


def latent_upscale() -> dict[str, Any]:
    unet = diffusers.UNet2DConditionModel(
        act_fn="gelu",
        attention_head_dim=8,
        norm_num_groups=None,
        block_out_channels=[32, 32, 64, 64],
        layers_per_block=1,
        time_cond_proj_dim=160,
        conv_in_kernel=1,
        conv_out_kernel=1,
        cross_attention_dim=parts.TEXT_DIM,
        down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
        up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
        in_channels=8,
        out_channels=5,
        mid_block_type=None,
        only_cross_attention=False,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
    )
    return {
        "vae": vaes.small_vae(4, (8, 8, 8, 8)),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "unet": unet,
        "scheduler": EulerDiscreteScheduler(prediction_type="sample"),
    }


def unclip_variation() -> dict[str, Any]:
    shared = {name: part for name, part in stable_unclip().items() if not name.startswith("prior")}
    return {**shared, "image_encoder": parts.clip_vision(), "feature_extractor": parts.clip_image_processor()}


def stable_video_diffusion() -> dict[str, Any]:
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=16,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=parts.TEXT_DIM,
        num_attention_heads=(2, 4),
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=[32, 64], down_block_types=["DownEncoderBlock2D"] * 2, latent_channels=4, layers_per_block=1
    )
    scheduler = EulerDiscreteScheduler(
        **SCALED_LINEAR,
        prediction_type="v_prediction",
        interpolation_type="linear",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    return {
        "vae": vae,
        "image_encoder": parts.clip_vision(image_size=224, patch_size=112),  # the size is the pipeline's
        "unet": unet,
        "scheduler": scheduler,
        "feature_extractor": parts.clip_image_processor(),
    }


def latent_super_resolution() -> dict[str, Any]:
    unet = diffusers.UNet2DModel(
        in_channels=6,
        out_channels=3,
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    vqvae = diffusers.VQModel(**vaes.blocks((8, 16)), latent_channels=3, norm_num_groups=4, num_vq_embeddings=32)
    return {"vqvae": vqvae, "unet": unet, "scheduler": diffusers.DDIMScheduler(**SCALED_LINEAR, clip_sample=False)}


KOLORS_CALL = {"max_sequence_length": 32}
IMAGE: Any = {"takes": ("image",)}
MASK: Any = {"takes": ("image", "mask")}
ON_SD: Any = {"base": "StableDiffusionPipeline"}
ON_XL: Any = {"base": "StableDiffusionXLPipeline"}

FAMILIES = (
    Family("StableDiffusionImg2ImgPipeline", "image", SD, **ON_SD, **IMAGE),
    Family("StableDiffusionInpaintPipeline", "image", SD, **ON_SD, **MASK),
    Family("StableDiffusionPAGImg2ImgPipeline", "image", DDIM, base="StableDiffusionPAGPipeline", **IMAGE),
    Family("StableDiffusionPAGInpaintPipeline", "image", DDIM, base="StableDiffusionPAGPipeline", **MASK),
    Family("StableDiffusionXLImg2ImgPipeline", "image", XL_REFINER, **ON_XL, **IMAGE),
    Family("StableDiffusionXLInpaintPipeline", "image", XL_REFINER, **ON_XL, **MASK),
    Family("StableDiffusionXLPAGImg2ImgPipeline", "image", XL_REFINER, base="StableDiffusionXLPAGPipeline", **IMAGE),
    Family("StableDiffusionXLPAGInpaintPipeline", "image", XL_REFINER, base="StableDiffusionXLPAGPipeline", **MASK),
    Family("LatentConsistencyModelImg2ImgPipeline", "image", latent_consistency, takes_negative=False,
           base="LatentConsistencyModelPipeline", **IMAGE),
    Family("KolorsImg2ImgPipeline", "image", kolors, base="KolorsPipeline", call=KOLORS_CALL, **IMAGE),
    Family("StableDiffusionInstructPix2PixPipeline", "image", instruct_pix2pix, **IMAGE),
    Family("StableDiffusionXLInstructPix2PixPipeline", "image", instruct_pix2pix_xl, **IMAGE),
    Family("StableDiffusionDepth2ImgPipeline", "image", depth_to_image, **IMAGE),
    Family("StableDiffusionImageVariationPipeline", "image", image_variation, **IMAGE),
    Family("StableDiffusionUpscalePipeline", "image", upscale, size=64, other_size=128, **IMAGE),
    Family("StableDiffusionLatentUpscalePipeline", "image", latent_upscale, size=128, other_size=192, **IMAGE),
    Family("StableUnCLIPImg2ImgPipeline", "image", unclip_variation, **IMAGE),
    Family("LDMSuperResolutionPipeline", "image", latent_super_resolution, **IMAGE),
    Family("StableVideoDiffusionPipeline", "video", stable_video_diffusion, num_frames=4, **IMAGE),
)  # fmt: skip
