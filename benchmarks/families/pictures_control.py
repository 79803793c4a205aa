"""ControlNets and T2I-Adapters, lent to the checkpoints of other families."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffusers

from benchmarks.families import parts
from benchmarks.families.building import T5_CALL, small
from benchmarks.families.dits_cross import SANA_CALL, hunyuan_dit, sana
from benchmarks.families.dits_flow import flux, stable_diffusion_3
from benchmarks.families.dits_llm import qwen_image, z_image
from benchmarks.families.family import Family
from benchmarks.families.unets import DDIM, SD, XL, animate_diff, sd_unet

BLOCKS = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "block_out_channels": (16, 32)}


def lent(base: Callable[[], dict[str, Any]], controlnet: Callable[[], Any], name: str = "controlnet") -> Any:
    """Returns a function that builds the base's components and what an adapter lends to them."""

    def build() -> dict[str, Any]:
        return {**base(), name: controlnet()}

    return build


def sd_controlnet(cls: type = diffusers.ControlNetModel, **options: Any) -> Any:
    usual = {
        **BLOCKS,
        "layers_per_block": 1,
        "cross_attention_dim": parts.TEXT_DIM,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        "conditioning_embedding_out_channels": (16, 32),  # one halving, as in the tiny VAE
    }
    return cls(**{**usual, **options})


def xl_controlnet(cls: type = diffusers.ControlNetModel, **options: Any) -> Any:
    return sd_controlnet(
        cls,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + parts.TEXT_DIM,
        cross_attention_dim=2 * parts.TEXT_DIM,
        **options,
    )


def union_controlnet() -> Any:
    return xl_controlnet(diffusers.ControlNetUnionModel, num_control_type=6, num_trans_channel=16,
                         num_trans_head=2, num_trans_layer=1, num_proj_channel=16)  # fmt: skip


def sparse_controlnet() -> Any:
    return diffusers.SparseControlNetModel(
        down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=parts.TEXT_DIM,
        attention_head_dim=4,
        norm_num_groups=4,
        conditioning_embedding_out_channels=(16, 32),
        conditioning_channels=3,
        concat_conditioning_mask=True,
        use_simplified_condition_embedding=False,
    )


def t2i_adapter(kind: str, downscale_factor: int) -> Any:
    return diffusers.T2IAdapter(3, [16, 32], num_res_blocks=1, downscale_factor=downscale_factor, adapter_type=kind)


def with_attention_first() -> dict[str, Any]:
    """As in Stable Diffusion: an adapter's features have the size that the first block has before it halves it."""
    down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    return SD(unet=sd_unet(down_block_types=down, up_block_types=up))


def sd_3_controlnet(extra_channels: int = 0, latent_channels: int = 4) -> Any:
    return small(
        diffusers.SD3ControlNetModel,
        sample_size=16,
        in_channels=latent_channels,
        num_layers=1,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * parts.TEXT_DIM,
        pooled_projection_dim=2 * parts.TEXT_DIM,
        out_channels=latent_channels,
        pos_embed_max_size=32,
        extra_conditioning_channels=extra_channels,
    )


def flux_controlnet() -> Any:
    return small(
        diffusers.FluxControlNetModel,
        in_channels=16,
        attention_head_dim=16,
        joint_attention_dim=parts.TEXT_DIM,
        pooled_projection_dim=parts.TEXT_DIM,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def qwen_controlnet(extra_channels: int = 0) -> Any:
    return small(
        diffusers.QwenImageControlNetModel,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        extra_condition_channels=extra_channels,
    )


def z_image_controlnet(channels: int) -> Any:
    return diffusers.ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=channels,
        add_control_noise_refiner="control_noise_refiner",
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )


def hunyuan_dit_controlnet() -> Any:
    return small(
        diffusers.HunyuanDiT2DControlNetModel,
        sample_size=16,
        transformer_num_layers=4,  # it has half as many itself
        patch_size=2,
        num_attention_heads=3,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
    )


def sana_controlnet() -> Any:
    return small(
        diffusers.SanaControlNetModel,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
    )


ON_SD: Any = {"base": "StableDiffusionPipeline", "lent": "controlnet"}
ON_XL: Any = {"base": "StableDiffusionXLPipeline", "lent": "controlnet"}
CONTROL: Any = {"takes": ("control",)}
IMAGE: Any = {"takes": ("image", "control")}
MASK: Any = {"takes": ("image", "mask", "control")}
FLUX: Any = {"base": "FluxPipeline", "lent": "controlnet", "takes_negative": False, "call": T5_CALL}
QWEN: Any = {"base": "QwenImagePipeline", "lent": "controlnet", "call": {"true_cfg_scale": 3.0}}
sd, xl = lent(SD, sd_controlnet), lent(XL, xl_controlnet)
sd_pag, union = lent(DDIM, sd_controlnet), lent(XL, union_controlnet)
flux_1, qwen = lent(flux, flux_controlnet), lent(qwen_image, qwen_controlnet)
adapter = functools.partial(t2i_adapter, "full_adapter", 2)
xl_adapter = functools.partial(t2i_adapter, "full_adapter_xl", 4)
animated = lent(animate_diff, sd_controlnet)

FAMILIES = (
    Family("StableDiffusionControlNetPipeline", "image", sd, **ON_SD, **CONTROL),
    Family("StableDiffusionControlNetImg2ImgPipeline", "image", sd, **ON_SD, **IMAGE),
    Family("StableDiffusionControlNetInpaintPipeline", "image", sd, **ON_SD, **MASK),
    Family("StableDiffusionControlNetPAGPipeline", "image", sd_pag, base="StableDiffusionPAGPipeline",
           lent="controlnet", **CONTROL),
    Family("StableDiffusionControlNetPAGInpaintPipeline", "image", sd_pag, base="StableDiffusionPAGPipeline",
           lent="controlnet", **MASK),
    Family("StableDiffusionXLControlNetPipeline", "image", xl, **ON_XL, **CONTROL),
    Family("StableDiffusionXLControlNetImg2ImgPipeline", "image", xl, **ON_XL, **IMAGE),
    Family("StableDiffusionXLControlNetInpaintPipeline", "image", xl, **ON_XL, **MASK),
    Family("StableDiffusionXLControlNetPAGPipeline", "image", xl, base="StableDiffusionXLPAGPipeline",
           lent="controlnet", **CONTROL),
    Family("StableDiffusionXLControlNetPAGImg2ImgPipeline", "image", xl, base="StableDiffusionXLPAGPipeline",
           lent="controlnet", **IMAGE),
    Family("StableDiffusionXLControlNetUnionPipeline", "image", union, **ON_XL, **CONTROL),
    Family("StableDiffusionXLControlNetUnionImg2ImgPipeline", "image", union, **ON_XL, **IMAGE),
    Family("StableDiffusionXLControlNetUnionInpaintPipeline", "image", union, **ON_XL, **MASK),
    Family("StableDiffusionAdapterPipeline", "image", lent(with_attention_first, adapter, "adapter"),
           base="StableDiffusionPipeline", lent="adapter", **CONTROL),
    Family("StableDiffusionXLAdapterPipeline", "image", lent(XL, xl_adapter, "adapter"),
           base="StableDiffusionXLPipeline", lent="adapter", **CONTROL),
    Family("StableDiffusion3ControlNetPipeline", "image", lent(stable_diffusion_3, sd_3_controlnet),
           base="StableDiffusion3Pipeline", lent="controlnet", **CONTROL),
    Family("StableDiffusion3ControlNetInpaintingPipeline", "image",
           lent(functools.partial(stable_diffusion_3, 16), functools.partial(sd_3_controlnet, 1, 16)),
           base="StableDiffusion3Pipeline", lent="controlnet", takes=("control", "mask")),
    Family("FluxControlNetPipeline", "image", flux_1, **FLUX, **CONTROL),
    Family("FluxControlNetImg2ImgPipeline", "image", flux_1, **FLUX, **IMAGE),
    Family("FluxControlNetInpaintPipeline", "image", flux_1, **FLUX, **MASK),
    Family("QwenImageControlNetPipeline", "image", qwen, **QWEN, **CONTROL),
    Family("QwenImageControlNetInpaintPipeline", "image", lent(qwen_image, functools.partial(qwen_controlnet, 4)),
           **QWEN, takes=("control", "mask")),
    Family("ZImageControlNetPipeline", "image", lent(z_image, functools.partial(z_image_controlnet, 16)),
           base="ZImagePipeline", lent="controlnet", **CONTROL),
    Family("ZImageControlNetInpaintPipeline", "image", lent(z_image, functools.partial(z_image_controlnet, 33)),
           base="ZImagePipeline", lent="controlnet", **MASK),
    Family("HunyuanDiTControlNetPipeline", "image", lent(hunyuan_dit, hunyuan_dit_controlnet),
           base="HunyuanDiTPipeline", lent="controlnet", call={"use_resolution_binning": False}, **CONTROL),
    Family("SanaControlNetPipeline", "image", lent(sana, sana_controlnet), other_size=64, base="SanaPipeline",
           lent="controlnet", call=SANA_CALL, **CONTROL),
    Family("AnimateDiffControlNetPipeline", "video", animated, num_frames=4, base="AnimateDiffPipeline",
           lent="controlnet", **CONTROL),
    Family("AnimateDiffSparseControlNetPipeline", "video", lent(animate_diff, sparse_controlnet), num_frames=4,
           base="AnimateDiffPipeline", lent="controlnet", **CONTROL),
    Family("AnimateDiffVideoToVideoControlNetPipeline", "video", animated, num_frames=4,
           base="AnimateDiffPipeline", lent="controlnet", takes=("video", "control")),
)  # fmt: skip
