"""Image transformers with cross-attention to the text, and similar ones: PixArt, Sana, CogView, Lumina, Hunyuan-DiT."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import transformers
from diffusers import CogVideoXDDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from transformers import CLIPTextModelWithProjection

from benchmarks.families import encoders, parts, vaes
from benchmarks.families.building import T5_CALL, components, flow, small
from benchmarks.families.family import Family


def pixart(per_sigma: bool) -> dict[str, Any]:
    transformer = small(
        diffusers.PixArtTransformer2DModel,
        sample_size=8,
        out_channels=4 if per_sigma else 8,
        num_layers=2,
        num_attention_heads=4,
        cross_attention_dim=32,
        caption_channels=parts.TEXT_DIM,
        use_additional_conditions=False,
    )
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True} if per_sigma else {}
    vae = vaes.tiny_vae() if per_sigma else vaes.small_vae()
    return components(transformer, vae, DPMSolverMultistepScheduler(**options), encoders.t5())


def sana(sprint: bool = False) -> dict[str, Any]:
    options = {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True} if sprint else {}
    transformer = small(
        diffusers.SanaTransformer2DModel,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        **options,
    )
    return components(
        transformer,
        vaes.deep_compression_vae(),
        diffusers.SCMScheduler() if sprint else flow(shift=7.0),
        encoders.gemma2(),
    )


def cogview_3() -> dict[str, Any]:
    transformer = small(
        diffusers.CogView3PlusTransformer2DModel,
        attention_head_dim=4,
        text_embed_dim=parts.TEXT_DIM,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=32,
        sample_size=8,
    )
    return components(transformer, vaes.small_vae(), CogVideoXDDIMScheduler(), encoders.t5())


def cogview_4() -> dict[str, Any]:
    transformer = small(
        diffusers.CogView4Transformer2DModel,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
    )
    scheduler = flow(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    text = parts.small_decoder(transformers.GlmConfig, transformers.GlmForCausalLM, hidden_size=32, head_dim=16)
    return components(transformer, vaes.small_vae(), scheduler, (text, parts.gemma_tokenizer()))


def hunyuan_dit() -> dict[str, Any]:
    transformer = small(
        diffusers.HunyuanDiT2DModel,
        sample_size=16,
        num_layers=4,
        patch_size=2,
        num_attention_heads=3,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
    )
    return components(
        transformer,
        vaes.small_vae(4, (8, 8, 8, 8)),  # the pipeline assumes a factor of 8
        DDPMScheduler(),
        (parts.bert_text(), parts.bert_tokenizer()),
        encoders.t5(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def lumina() -> dict[str, Any]:
    transformer = small(
        diffusers.LuminaNextDiT2DModel,
        sample_size=4,
        hidden_size=16,
        num_layers=2,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=16,
    )
    text = parts.small_decoder(transformers.GemmaConfig, transformers.GemmaForCausalLM, head_dim=8)
    return components(transformer, vaes.small_vae(), flow(), (text, parts.gemma_tokenizer()))


def lumina_2() -> dict[str, Any]:
    transformer = small(
        diffusers.Lumina2Transformer2DModel,
        out_channels=None,
        num_refiner_layers=2,
        sample_size=4,
        hidden_size=8,
        num_layers=2,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=[4, 2, 2],
        cap_feat_dim=16,
    )
    return components(transformer, vaes.flow_vae(4), flow(), encoders.gemma2())


def amused() -> dict[str, Any]:
    transformer = diffusers.UVit2DModel(
        hidden_size=16,
        cond_embed_dim=parts.TEXT_DIM,
        micro_cond_encode_dim=2,
        micro_cond_embed_dim=10,
        encoder_hidden_size=parts.TEXT_DIM,
        vocab_size=32,
        codebook_size=32,
        in_channels=16,
        block_out_channels=16,
        num_res_blocks=1,
        downsample=True,
        upsample=True,
        block_num_heads=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
    )
    vqvae = diffusers.VQModel(
        **vaes.blocks((8, 8)),
        latent_channels=8,
        norm_num_groups=4,
        num_vq_embeddings=32,
        sample_size=8,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    return {
        "transformer": transformer,
        "vqvae": vqvae,
        "scheduler": diffusers.AmusedScheduler(mask_token_id=31),
        "text_encoder": parts.clip_text(CLIPTextModelWithProjection),
        "tokenizer": parts.clip_tokenizer(),
    }


PIXART_CALL = {"use_resolution_binning": False, "clean_caption": False, **T5_CALL}
SANA_CALL = {"use_resolution_binning": False, "clean_caption": False, **T5_CALL, "complex_human_instruction": []}
NO_BINNING = {"use_resolution_binning": False}

FAMILIES = (
    Family("PixArtAlphaPipeline", "image", functools.partial(pixart, False), call=PIXART_CALL),
    Family("PixArtSigmaPipeline", "image", functools.partial(pixart, True), call=PIXART_CALL),
    Family("PixArtSigmaPAGPipeline", "image", functools.partial(pixart, True), call=PIXART_CALL),
    Family("CogView3PlusPipeline", "image", cogview_3, call=T5_CALL),
    Family("CogView4Pipeline", "image", cogview_4, call={"max_sequence_length": 64}),
    Family("HunyuanDiTPipeline", "image", hunyuan_dit, call=NO_BINNING),
    Family("HunyuanDiTPAGPipeline", "image", hunyuan_dit, call=NO_BINNING),
    Family("LuminaPipeline", "image", lumina, call={"clean_caption": False}),
    Family("Lumina2Pipeline", "image", lumina_2),
    Family("SanaPipeline", "image", sana, other_size=64, call=SANA_CALL),
    Family("SanaPAGPipeline", "image", sana, other_size=64, call=SANA_CALL),
    Family("SanaSprintPipeline", "image", functools.partial(sana, True), other_size=64, steps=(2,),
           takes_negative=False, call=SANA_CALL),
    Family("AmusedPipeline", "image", amused),
)  # fmt: skip
