"""U-Nets that work from an embedding made by a prior, or on pixels: Kandinsky, unCLIP, Cascade, DeepFloyd IF."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextModelWithProjection

from benchmarks.families import parts, vaes
from benchmarks.families.family import Family
from benchmarks.families.unets import SCALED_LINEAR, sd_unet


def deep_floyd() -> dict[str, Any]:
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=[16, 32],
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        in_channels=3,
        out_channels=6,
        norm_num_groups=8,
        cross_attention_dim=32,
        encoder_hid_dim=parts.TEXT_DIM,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,
        variance_type="learned_range",
    )
    return {
        "text_encoder": parts.t5_text(),
        "tokenizer": parts.t5_tokenizer(),
        "unet": unet,
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }


def kandinsky_3() -> dict[str, Any]:
    unet = diffusers.Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=parts.TEXT_DIM,
    )
    return {
        "unet": unet,
        "movq": vaes.movq(),
        "text_encoder": parts.t5_text(),
        "tokenizer": parts.t5_tokenizer(),
        "scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True),
    }


def image_prior(prefix: str) -> dict[str, Any]:
    scheduler = diffusers.UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=10.0
    )
    prior = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=12, embedding_dim=parts.TEXT_DIM, num_layers=1
    )
    found = {
        "prior": prior,
        "image_encoder": parts.clip_vision(),
        "image_processor": parts.clip_image_processor(),
        "text_encoder": parts.clip_text(CLIPTextModelWithProjection),
        "tokenizer": parts.clip_tokenizer(),
        "scheduler": scheduler,
    }
    return {f"{prefix}{name}": part for name, part in found.items()}


def kandinsky_unet(**options: Any) -> UNet2DConditionModel:
    usual = {"in_channels": 4}
    return UNet2DConditionModel(
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 64),
        layers_per_block=1,
        encoder_hid_dim=parts.TEXT_DIM,
        cross_attention_dim=parts.TEXT_DIM,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        **{**usual, **options},
    )


def kandinsky_22(**options: Any) -> dict[str, Any]:
    return {
        "unet": kandinsky_unet(addition_embed_type="image", encoder_hid_dim_type="image_proj", **options),
        "movq": vaes.movq(),
        "scheduler": DDIMScheduler(**SCALED_LINEAR, clip_sample=False),
        **image_prior("prior_"),
    }


def kandinsky_21(**options: Any) -> dict[str, Any]:
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    config = MCLIPConfig(
        numDims=parts.TEXT_DIM,
        transformerDimensions=parts.TEXT_DIM,
        vocab_size=parts.VOCABULARY,
        hidden_size=parts.TEXT_DIM,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
    )
    return {
        "text_encoder": MultilingualCLIP(config),
        "tokenizer": parts.bert_tokenizer(),
        "unet": kandinsky_unet(addition_embed_type="text_image", encoder_hid_dim_type="text_image_proj", **options),
        "movq": vaes.movq(),
        "scheduler": DDIMScheduler(**SCALED_LINEAR, clip_sample=False),
        **image_prior("prior_"),
    }


def stable_unclip() -> dict[str, Any]:
    prior = image_prior("prior_")
    unet = sd_unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * parts.TEXT_DIM)
    return {
        "prior": prior["prior_prior"],
        "prior_tokenizer": prior["prior_tokenizer"],
        "prior_text_encoder": prior["prior_text_encoder"],
        "prior_scheduler": DDPMScheduler(variance_type="fixed_small_log", prediction_type="sample", clip_sample=True),
        "image_normalizer": diffusers.pipelines.stable_diffusion.StableUnCLIPImageNormalizer(parts.TEXT_DIM),
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "unet": unet,
        "scheduler": DDIMScheduler(**SCALED_LINEAR, prediction_type="v_prediction"),
        "vae": vaes.small_vae(),
    }


def cascade() -> dict[str, Any]:
    from diffusers.models import StableCascadeUNet
    from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel

    prior = StableCascadeUNet(
        conditioning_dim=32,
        block_out_channels=(32, 32),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        switch_level=(False,),
        clip_image_in_channels=32,
        clip_text_in_channels=parts.TEXT_DIM,
        clip_text_pooled_in_channels=parts.TEXT_DIM,
    )
    plain, attending = ("SDCascadeResBlock", "SDCascadeTimestepBlock"), ("SDCascadeAttnBlock",)
    decoder = StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        conditioning_dim=32,
        block_out_channels=(16, 32, 32, 32),
        num_attention_heads=(-1, -1, 1, 2),
        down_num_layers_per_block=(1, 1, 1, 1),
        up_num_layers_per_block=(1, 1, 1, 1),
        down_blocks_repeat_mappers=(1, 1, 1, 1),
        up_blocks_repeat_mappers=(1, 1, 1, 1),
        block_types_per_layer=(plain, plain, plain + attending, plain + attending),
        switch_level=None,
        clip_text_pooled_in_channels=parts.TEXT_DIM,
        dropout=(0.1, 0.1, 0.1, 0.1),
    )
    return {
        "text_encoder": parts.clip_text(CLIPTextModelWithProjection),
        "tokenizer": parts.clip_tokenizer(),
        "decoder": decoder,
        "scheduler": diffusers.DDPMWuerstchenScheduler(),
        "vqgan": PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2),
        "prior_text_encoder": parts.clip_text(CLIPTextModelWithProjection),
        "prior_tokenizer": parts.clip_tokenizer(),
        "prior_prior": prior,
        "prior_scheduler": diffusers.DDPMWuerstchenScheduler(),
        "prior_feature_extractor": None,
        "prior_image_encoder": None,
    }


FAMILIES = (
    Family("StableUnCLIPPipeline", "image", stable_unclip, call={"prior_num_inference_steps": 2}),
    Family("IFPipeline", "image", deep_floyd, size=16, other_size=24, call={"clean_caption": False}),
    Family("Kandinsky3Pipeline", "image", kandinsky_3),
    Family("KandinskyCombinedPipeline", "image", kandinsky_21, call={"prior_num_inference_steps": 2}),
    Family("KandinskyV22CombinedPipeline", "image", kandinsky_22, size=64, other_size=128,
           call={"prior_num_inference_steps": 2}),
    Family("StableCascadeCombinedPipeline", "image", cascade, size=128, other_size=256, library_opens=False,
           call={"prior_num_inference_steps": 2}),
)  # fmt: skip
