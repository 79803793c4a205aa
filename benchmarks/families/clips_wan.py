"""Wan and models derived from it: VACE, SkyReels, AnyFlow, Helios."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
from diffusers import UniPCMultistepScheduler

from benchmarks.families import encoders, parts, vaes
from benchmarks.families.building import T5_CALL, components, small
from benchmarks.families.family import Family


def wan_like(transformer: type, **options: Any) -> Any:
    usual = {
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": parts.TEXT_DIM,
        "freq_dim": 64,
        "ffn_dim": 64,
        "num_layers": 2,
    }
    return small(transformer, **{**usual, **options})


def unipc(**options: Any) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, **options)


def wan() -> dict[str, Any]:
    transformer = wan_like(diffusers.WanTransformer3DModel, in_channels=4, out_channels=4, rope_max_seq_len=64)
    return components(transformer, vaes.wan_vae(4), unipc(flow_shift=3.0), encoders.umt5())


def wan_vace() -> dict[str, Any]:
    transformer = wan_like(
        diffusers.WanVACETransformer3DModel, num_layers=3, rope_max_seq_len=64, vace_layers=[0, 2], vace_in_channels=96
    )
    return components(transformer, vaes.wan_vae(), unipc(flow_shift=3.0), encoders.umt5())


def sky_reels() -> dict[str, Any]:
    transformer = wan_like(diffusers.SkyReelsV2Transformer3DModel, rope_max_seq_len=64)
    scheduler = UniPCMultistepScheduler(flow_shift=8.0, use_flow_sigmas=True)
    return components(transformer, vaes.wan_vae(), scheduler, encoders.umt5())


def any_flow(transformer_class: type = diffusers.AnyFlowTransformer3DModel, **options: Any) -> dict[str, Any]:
    transformer = wan_like(transformer_class, rope_max_seq_len=64, gate_value=0.25, deltatime_type="r", **options)
    scheduler = diffusers.FlowMapEulerDiscreteScheduler(num_train_timesteps=1000, shift=5.0)
    return components(transformer, vaes.wan_vae(), scheduler, encoders.umt5())


def any_flow_far() -> dict[str, Any]:
    """Generates three chunks of one latent frame, each with the keys and values of the chunks before."""
    return any_flow(diffusers.AnyFlowFARTransformer3DModel, chunk_partition=(1, 1, 1))


def helios(stages: int = 1) -> dict[str, Any]:
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
    stage_range = [stage / stages for stage in range(stages + 1)]
    scheduler = diffusers.HeliosScheduler(
        stage_range=stage_range,
        stages=stages,
        gamma=1 / 3
        if stages == 1
        else 0.25,  # with 1/3, the Cholesky factorization of the noise between stages fails on a CPU
        use_dynamic_shifting=True,
    )
    return components(transformer, vaes.wan_vae(), scheduler, encoders.umt5())


PYRAMID_CALL = {**T5_CALL, "pyramid_num_inference_steps_list": [2, 2]}

FAMILIES = (
    Family("WanPipeline", "video", wan, num_frames=5, call=T5_CALL),
    Family("WanVACEPipeline", "video", wan_vace, num_frames=5, call=T5_CALL),
    Family("SkyReelsV2Pipeline", "video", sky_reels, num_frames=9, call=T5_CALL),
    Family("SkyReelsV2DiffusionForcingPipeline", "video", sky_reels, num_frames=9, call=T5_CALL),
    Family("AnyFlowPipeline", "video", any_flow, num_frames=9, call=T5_CALL),
    Family("HeliosPipeline", "video", helios, num_frames=8, call=T5_CALL),
    Family("AnyFlowFARPipeline", "video", any_flow_far, num_frames=9, call=T5_CALL),
    Family("HeliosPyramidPipeline", "video", functools.partial(helios, 2), other_size=64, num_frames=8,
           call=PYRAMID_CALL),
)  # fmt: skip
