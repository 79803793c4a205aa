"""Transformers that make clips: Wan and what was made of it, LTX, CogVideoX, Hunyuan, Mochi."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import transformers
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from benchmarks.families import parts
from benchmarks.families.dits_common import T5_CALL, flow, with_t5
from benchmarks.families.dits_llm import kandinsky_5
from benchmarks.families.family import Family


def wan_like(transformer: type, **options: Any) -> Any:
    usual = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": parts.TEXT_DIM,
        "freq_dim": 64,
        "ffn_dim": 64,
        "num_layers": 2,
    }
    return transformer(**{**usual, **options})


def unipc(**options: Any) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, **options)


def wan() -> dict[str, Any]:
    transformer = wan_like(diffusers.WanTransformer3DModel, in_channels=4, out_channels=4, rope_max_seq_len=64)
    return with_t5(transformer, parts.wan_vae(4), unipc(flow_shift=3.0), text_encoder=parts.umt5_text())


def wan_vace() -> dict[str, Any]:
    transformer = wan_like(
        diffusers.WanVACETransformer3DModel,
        num_layers=3,
        rope_max_seq_len=64,
        vace_layers=[0, 2],
        vace_in_channels=96,
    )
    return with_t5(transformer, parts.wan_vae(), unipc(flow_shift=3.0), text_encoder=parts.umt5_text())


def sky_reels() -> dict[str, Any]:
    transformer = wan_like(diffusers.SkyReelsV2Transformer3DModel, rope_max_seq_len=64)
    scheduler = UniPCMultistepScheduler(flow_shift=8.0, use_flow_sigmas=True)
    return with_t5(transformer, parts.wan_vae(), scheduler, text_encoder=parts.umt5_text())


def any_flow() -> dict[str, Any]:
    transformer = wan_like(
        diffusers.AnyFlowTransformer3DModel, rope_max_seq_len=64, gate_value=0.25, deltatime_type="r"
    )
    scheduler = diffusers.FlowMapEulerDiscreteScheduler(num_train_timesteps=1000, shift=5.0)
    return with_t5(transformer, parts.wan_vae(), scheduler, text_encoder=parts.umt5_text())


def helios() -> dict[str, Any]:
    transformer = wan_like(
        diffusers.HeliosTransformer3DModel,
        patch_size=(1, 2, 2),
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_dim=(4, 4, 4),
        has_multi_term_memory_patch=True,
        guidance_cross_attn=True,
        zero_history_timestep=True,
        is_amplify_history=False,
    )
    scheduler = diffusers.HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    return with_t5(transformer, parts.wan_vae(), scheduler, text_encoder=parts.umt5_text())


def motif() -> dict[str, Any]:
    from diffusers.guiders import AdaptiveProjectedGuidance

    text = transformers.T5Gemma2TextConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=parts.VOCABULARY,
        max_position_embeddings=128,
        head_dim=16,
        num_key_value_heads=2,
        dropout_rate=0.0,
    )
    transformer = diffusers.MotifVideoTransformer3DModel(
        in_channels=33,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        mlp_ratio=4.0,
        patch_size=1,
        patch_size_t=1,
        qk_norm="rms_norm",
        text_embed_dim=32,
        rope_axes_dim=(4, 4, 4),
    )
    encoder = transformers.T5Gemma2Encoder(transformers.T5Gemma2EncoderConfig(text_config=text))
    return with_t5(
        transformer,
        parts.wan_vae(),
        flow(shift=7.0),
        text_encoder=encoder,
        tokenizer=parts.gemma_tokenizer(),
        feature_extractor=None,
        guider=AdaptiveProjectedGuidance(),
    )


def ltx(dynamic_shifting: bool = True) -> dict[str, Any]:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
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
        decoder_inject_noise=(False, False, False, False, False),
        patch_size=1,
        patch_size_t=1,
    )
    return with_t5(transformer, vae, flow(use_dynamic_shifting=dynamic_shifting))


def cogvideox() -> dict[str, Any]:
    """As the built-in video model has it: four latent frames a patch, and a VAE that folds no frames."""
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=16,
        text_embed_dim=parts.TEXT_DIM,
        num_layers=2,
        sample_width=32,
        sample_height=32,
        sample_frames=8,
        patch_size=2,
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
    return with_t5(transformer, vae, scheduler)


def latte() -> dict[str, Any]:
    transformer = diffusers.LatteTransformer3DModel(
        sample_size=8,
        video_length=4,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=parts.TEXT_DIM,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
    )
    return with_t5(transformer, parts.small_vae(), DDIMScheduler())


def mochi() -> dict[str, Any]:
    transformer = diffusers.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        qk_norm="rms_norm",
        text_embed_dim=parts.TEXT_DIM,
        time_embed_dim=4,
        activation_fn="swiglu",
        max_sequence_length=16,
    )
    vae = diffusers.AutoencoderKLMochi(
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    return with_t5(transformer, vae, flow())


def sana_video() -> dict[str, Any]:
    transformer = diffusers.SanaVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        mlp_ratio=2.5,
        sample_size=8,
        patch_size=(1, 2, 2),
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    return with_t5(
        transformer,
        parts.wan_vae(),
        DPMSolverMultistepScheduler(),
        text_encoder=parts.gemma2_text(),
        tokenizer=parts.gemma_tokenizer(),
    )


def easy_animate() -> dict[str, Any]:
    transformer = diffusers.EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=1,
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
    return with_t5(transformer, vae, flow(), text_encoder=parts.qwen_vl_text(), tokenizer=parts.qwen_tokenizer())


def hunyuan_video() -> dict[str, Any]:
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(2, 4, 4),
    )
    return {
        "transformer": transformer,
        "vae": parts.hunyuan_video_vae(4),
        "scheduler": flow(shift=7.0),
        "text_encoder": parts.small_decoder(transformers.LlamaConfig, transformers.LlamaModel),
        "tokenizer": parts.llama_tokenizer(),
        "text_encoder_2": parts.clip_text(dim=16),
        "tokenizer_2": parts.clip_tokenizer(),
    }


def hunyuan_video_15() -> dict[str, Any]:
    from diffusers.guiders import ClassifierFreeGuidance

    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": flow(shift=7.0),
        "text_encoder": transformers.Qwen2_5_VLTextModel(parts.qwen_vl_config(16).text_config),
        "tokenizer": parts.qwen_tokenizer(),
        "text_encoder_2": parts.t5_text(vocab_size=400),
        "tokenizer_2": transformers.ByT5Tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=3.0),
    }


SANA_CALL = {"use_resolution_binning": False, "clean_caption": False, "complex_human_instruction": [], **T5_CALL}
PLAIN_TEMPLATE = {"template": "{}", "crop_start": 0}

FAMILIES = (
    Family("WanPipeline", "video", wan, num_frames=5, call=T5_CALL),
    Family("WanVACEPipeline", "video", wan_vace, num_frames=5, call=T5_CALL),
    Family("SkyReelsV2Pipeline", "video", sky_reels, num_frames=9, call=T5_CALL),
    Family("SkyReelsV2DiffusionForcingPipeline", "video", sky_reels, num_frames=9, call=T5_CALL),
    Family("AnyFlowPipeline", "video", any_flow, num_frames=9, call=T5_CALL),
    Family("HeliosPipeline", "video", helios, num_frames=8, call=T5_CALL),
    Family("MotifVideoPipeline", "video", motif, num_frames=9, call=T5_CALL),
    Family("LTXPipeline", "video", ltx, other_size=64, num_frames=9, call=T5_CALL),
    Family("LTXConditionPipeline", "video", functools.partial(ltx, False), other_size=64, num_frames=9, call=T5_CALL),
    Family("CogVideoXPipeline", "video", cogvideox, num_frames=8, call={"max_sequence_length": 16}),
    Family("LattePipeline", "video", latte, num_frames=4, call={"clean_caption": False}),
    Family("MochiPipeline", "video", mochi, num_frames=7, call={"max_sequence_length": 16}),
    Family("SanaVideoPipeline", "video", sana_video, other_size=64, num_frames=9, call=SANA_CALL),
    Family("EasyAnimatePipeline", "video", easy_animate, num_frames=5),
    Family("HunyuanVideoPipeline", "video", hunyuan_video, num_frames=9, call={"prompt_template": PLAIN_TEMPLATE, "max_sequence_length": 32}),
    Family("HunyuanVideo15Pipeline", "video", hunyuan_video_15, num_frames=9),
    Family("Kandinsky5T2VPipeline", "video", functools.partial(kandinsky_5, False), num_frames=5),
)  # fmt: skip
