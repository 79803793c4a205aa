"""Transformers that read the text by cross-attention, and their kin: PixArt, Sana, CogView, Lumina, Hunyuan-DiT."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import transformers
from diffusers import CogVideoXDDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from transformers import CLIPTextModelWithProjection

from benchmarks.families import parts
from benchmarks.families.dits_common import T5_CALL, flow, with_t5
from benchmarks.families.family import Family


def pixart(per_sigma: bool) -> dict[str, Any]:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4 if per_sigma else 8,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        caption_channels=parts.TEXT_DIM,
        num_embeds_ada_norm=1000,
        use_additional_conditions=False,
    )
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True} if per_sigma else {}
    vae = parts.tiny_vae() if per_sigma else parts.small_vae()
    return with_t5(transformer, vae, DPMSolverMultistepScheduler(**options))


def sana(sprint: bool = False) -> dict[str, Any]:
    options = {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True} if sprint else {}
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        sample_size=32,
        **options,
    )
    return with_t5(
        transformer,
        parts.deep_compression_vae(),
        diffusers.SCMScheduler() if sprint else flow(shift=7.0),
        text_encoder=parts.gemma2_text(),
        tokenizer=parts.gemma_tokenizer(),
    )


def cogview_3() -> dict[str, Any]:
    transformer = diffusers.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=parts.TEXT_DIM,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=32,
        sample_size=8,
    )
    return with_t5(transformer, parts.small_vae(), CogVideoXDDIMScheduler())


def cogview_4() -> dict[str, Any]:
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
    )
    scheduler = flow(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    text = parts.small_decoder(transformers.GlmConfig, transformers.GlmForCausalLM, hidden_size=32, head_dim=16)
    return with_t5(transformer, parts.small_vae(), scheduler, text_encoder=text, tokenizer=parts.gemma_tokenizer())


def hunyuan_dit() -> dict[str, Any]:
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
        text_len=77,
        text_len_t5=256,
        activation_fn="gelu-approximate",
    )
    return {
        "transformer": transformer,
        "vae": parts.small_vae(4, (8, 8, 8, 8)),  # the factor of 8 is written into its pipeline
        "scheduler": DDPMScheduler(),
        "text_encoder": parts.bert_text(),
        "tokenizer": parts.bert_tokenizer(),
        "text_encoder_2": parts.t5_text(),
        "tokenizer_2": parts.t5_tokenizer(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def lumina() -> dict[str, Any]:
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=16,
        scaling_factor=1.0,
    )
    text = parts.small_decoder(transformers.GemmaConfig, transformers.GemmaForCausalLM, head_dim=8)
    return with_t5(transformer, parts.small_vae(), flow(), text_encoder=text, tokenizer=parts.gemma_tokenizer())


def lumina_2() -> dict[str, Any]:
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=2,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        scaling_factor=1.0,
        axes_dim_rope=[4, 2, 2],
        cap_feat_dim=16,
    )
    return with_t5(
        transformer, parts.flow_vae(4), flow(), text_encoder=parts.gemma2_text(), tokenizer=parts.gemma_tokenizer()
    )


def amused() -> dict[str, Any]:
    transformer = diffusers.UVit2DModel(
        hidden_size=16,
        use_bias=False,
        hidden_dropout=0.0,
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
        attention_dropout=0.0,
        intermediate_size=16,
        layer_norm_eps=1e-06,
        ln_elementwise_affine=True,
    )
    vqvae = diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
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
    Family("SanaSprintPipeline", "image", functools.partial(sana, True), other_size=64, steps=(2,), takes_negative=False, call=SANA_CALL),
    Family("AmusedPipeline", "image", amused),
)  # fmt: skip
