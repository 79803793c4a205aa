"""Video transformers: LTX, CogVideoX, Hunyuan, Mochi, Allegro and others."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import transformers
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from benchmarks.families import encoders, parts, vaes
from benchmarks.families.building import T5_CALL, components, flow, small
from benchmarks.families.dits_llm import kandinsky_5
from benchmarks.families.family import Family


def motif() -> dict[str, Any]:
    from diffusers.guiders import AdaptiveProjectedGuidance

    wider = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 16, "num_hidden_layers": 1}
    sizes = {**parts.DECODER, **wider, "max_position_embeddings": 128}
    text = transformers.T5Gemma2TextConfig(**sizes, dropout_rate=0.0)
    transformer = small(
        diffusers.MotifVideoTransformer3DModel,
        in_channels=33,
        out_channels=16,
        attention_head_dim=12,
        patch_size=1,
        text_embed_dim=32,
        rope_axes_dim=(4, 4, 4),
    )
    encoder = transformers.T5Gemma2Encoder(transformers.T5Gemma2EncoderConfig(text_config=text))
    return components(
        transformer,
        vaes.wan_vae(),
        flow(shift=7.0),
        (encoder, parts.gemma_tokenizer()),
        feature_extractor=None,
        guider=AdaptiveProjectedGuidance(),
    )


def ltx(dynamic_shifting: bool = True) -> dict[str, Any]:
    transformer = small(
        diffusers.LTXVideoTransformer3DModel,
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=parts.TEXT_DIM,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=1,
    )
    return components(transformer, vae, flow(use_dynamic_shifting=dynamic_shifting), encoders.t5())


def cogvideox() -> dict[str, Any]:
    """Like the built-in video model: four latent frames per patch, and a VAE without temporal compression."""
    transformer = small(
        diffusers.CogVideoXTransformer3DModel,
        attention_head_dim=16,
        time_embed_dim=16,
        text_embed_dim=parts.TEXT_DIM,
        num_layers=2,
        sample_width=32,
        sample_height=32,
        sample_frames=8,
        patch_size_t=4,
        patch_bias=False,
        temporal_compression_ratio=1,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=True,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D", "CogVideoXDownBlock3D"),
        up_block_types=("CogVideoXUpBlock3D", "CogVideoXUpBlock3D"),
        block_out_channels=(8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=1,
        sample_height=32,
        sample_width=32,
    )
    scheduler = diffusers.CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    return components(transformer, vae, scheduler, encoders.t5())


def latte() -> dict[str, Any]:
    transformer = small(
        diffusers.LatteTransformer3DModel,
        sample_size=8,
        video_length=4,
        patch_size=2,
        num_attention_heads=3,
        caption_channels=parts.TEXT_DIM,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
    )
    return components(transformer, vaes.small_vae(), DDIMScheduler(), encoders.t5())


def allegro() -> dict[str, Any]:
    transformer = small(
        diffusers.AllegroTransformer3DModel,
        attention_head_dim=12,
        cross_attention_dim=24,
        sample_height=8,
        sample_width=8,
        sample_frames=8,
        caption_channels=parts.TEXT_DIM,
    )
    vae = diffusers.AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, sample_size=160
    )
    return components(transformer, vae, DDIMScheduler(), encoders.t5())


def mochi() -> dict[str, Any]:
    transformer = small(
        diffusers.MochiTransformer3DModel,
        out_channels=None,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=parts.TEXT_DIM,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    vae = diffusers.AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    return components(transformer, vae, flow(), encoders.t5())


def sana_video() -> dict[str, Any]:
    transformer = small(
        diffusers.SanaVideoTransformer3DModel,
        in_channels=16,
        out_channels=16,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=8,
        rope_max_seq_len=32,
    )
    return components(transformer, vaes.wan_vae(), DPMSolverMultistepScheduler(), encoders.gemma2())


def easy_animate() -> dict[str, Any]:
    transformer = small(
        diffusers.EasyAnimateTransformer3DModel,
        attention_head_dim=16,
        time_embed_dim=2,
        text_embed_dim=16,
        sample_width=16,
        sample_height=16,
        patch_size=2,
    )
    vae = diffusers.AutoencoderKLMagvit(
        down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3),
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )
    return components(transformer, vae, flow(), encoders.qwen_vl())


def hunyuan_video() -> dict[str, Any]:
    transformer = small(
        diffusers.HunyuanVideoTransformer3DModel,
        attention_head_dim=10,
        patch_size=1,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(2, 4, 4),
    )
    return components(transformer, vaes.hunyuan_video_vae(4), flow(shift=7.0), encoders.llama(), encoders.clip(dim=16))


def hunyuan_video_15() -> dict[str, Any]:
    from diffusers.guiders import ClassifierFreeGuidance

    transformer = small(
        diffusers.HunyuanVideo15Transformer3DModel,
        in_channels=9,
        mlp_ratio=2.0,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    return components(
        transformer,
        vae,
        flow(shift=7.0),
        (transformers.Qwen2_5_VLTextModel(parts.qwen_vl_config(16).text_config), parts.qwen_tokenizer()),
        encoders.byt5(),
        guider=ClassifierFreeGuidance(guidance_scale=3.0),
    )


SANA_CALL = {"use_resolution_binning": False, "clean_caption": False, "complex_human_instruction": [], **T5_CALL}
PLAIN_TEMPLATE = {"template": "{}", "crop_start": 0}

FAMILIES = (
    Family("MotifVideoPipeline", "video", motif, num_frames=9, call=T5_CALL),
    Family("LTXPipeline", "video", ltx, other_size=64, num_frames=9, call=T5_CALL),
    Family("LTXConditionPipeline", "video", functools.partial(ltx, False), other_size=64, num_frames=9, call=T5_CALL),
    Family("CogVideoXPipeline", "video", cogvideox, num_frames=8, call={"max_sequence_length": 16}),
    Family("LattePipeline", "video", latte, num_frames=4, call={"clean_caption": False}),
    Family("AllegroPipeline", "video", allegro, size=160, num_frames=24, steps=(2, 3), jobs=2, in_tiles=True,
           call=T5_CALL),
    Family("MochiPipeline", "video", mochi, num_frames=7, call={"max_sequence_length": 16}),
    Family("SanaVideoPipeline", "video", sana_video, other_size=64, num_frames=9, call=SANA_CALL),
    Family("EasyAnimatePipeline", "video", easy_animate, num_frames=5),
    Family("HunyuanVideoPipeline", "video", hunyuan_video, num_frames=9,
           call={"prompt_template": PLAIN_TEMPLATE, "max_sequence_length": 32}),
    Family("HunyuanVideo15Pipeline", "video", hunyuan_video_15, num_frames=9),
    Family("Kandinsky5T2VPipeline", "video", functools.partial(kandinsky_5, False), num_frames=5),
)  # fmt: skip
