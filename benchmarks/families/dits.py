"""Transformers that make pictures, from PixArt to Flux 2 and Qwen-Image."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import transformers
from diffusers import (
    CogVideoXDDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import CLIPTextModelWithProjection, Qwen3ForCausalLM, Qwen3Model
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from benchmarks.families import parts
from benchmarks.families.family import Family

T5_CALL = {"max_sequence_length": 32}
ROPE_16 = (4, 4, 8)
BRIA_BOT_TOKEN = 128_000  # written into its pipeline: what stands for an empty prompt


def with_t5(transformer: Any, vae: Any, scheduler: Any, **changes: Any) -> dict[str, Any]:
    usual = {"text_encoder": parts.t5_text(), "tokenizer": parts.t5_tokenizer()}
    return {"transformer": transformer, "vae": vae, "scheduler": scheduler, **usual, **changes}


def flow(**options: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**options)


def stable_diffusion_3() -> dict[str, Any]:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * parts.TEXT_DIM,  # both CLIP widths side by side; the T5 one is as wide
        pooled_projection_dim=2 * parts.TEXT_DIM,
        pos_embed_max_size=32,
    )
    return {
        "transformer": transformer,
        "scheduler": flow(shift=3.0),
        "vae": parts.flow_vae(4),
        "text_encoder": parts.clip_text(CLIPTextModelWithProjection),
        "tokenizer": parts.clip_tokenizer(),
        "text_encoder_2": parts.clip_text(CLIPTextModelWithProjection),
        "tokenizer_2": parts.clip_tokenizer(),
        "text_encoder_3": parts.t5_text(2 * parts.TEXT_DIM, layers=1),
        "tokenizer_3": parts.t5_tokenizer(),
    }


def flux(guidance_embeds: bool = True) -> dict[str, Any]:
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts.TEXT_DIM,
        pooled_projection_dim=parts.TEXT_DIM,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    return {
        "transformer": transformer,
        "scheduler": flow(use_dynamic_shifting=True, shift=3.0),
        "vae": parts.flow_vae(4),
        "text_encoder": parts.clip_text(),
        "tokenizer": parts.clip_tokenizer(),
        "text_encoder_2": parts.t5_text(),
        "tokenizer_2": parts.t5_tokenizer(),
    }


def flux_2_klein() -> dict[str, Any]:
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=False,
    )
    vae = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(4,),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": flow(),
        "text_encoder": parts.qwen3_text(Qwen3ForCausalLM),
        "tokenizer": parts.qwen_tokenizer(),
    }


def chroma() -> dict[str, Any]:
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts.TEXT_DIM,
        axes_dims_rope=ROPE_16,
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return with_t5(transformer, parts.flow_vae(4), flow())


def bria() -> dict[str, Any]:
    transformer = diffusers.BriaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=parts.TEXT_DIM,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    return with_t5(transformer, parts.small_vae(4, shift_factor=0, scaling_factor=0.13), flow())


def bria_fibo() -> dict[str, Any]:
    transformer = diffusers.BriaFiboTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=64,
        text_encoder_dim=32,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    vae = parts.wan_vae(out_channels=12, in_channels=12, patch_size=2, scale_factor_spatial=16)
    text = parts.small_decoder(
        transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM, hidden_size=32, vocab_size=BRIA_BOT_TOKEN + 1
    )
    return with_t5(transformer, vae, flow(), text_encoder=text, tokenizer=parts.qwen_tokenizer())


def aura_flow() -> dict[str, Any]:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=parts.TEXT_DIM,
        out_channels=4,
        pos_embed_max_size=256,
    )
    return with_t5(transformer, parts.small_vae(), flow(), text_encoder=parts.umt5_text())


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


def hunyuan_image() -> dict[str, Any]:
    from diffusers.guiders import AdaptiveProjectedMixGuidance

    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=False,
        text_embed_dim=32,
        text_embed_2_dim=32,
        rope_axes_dim=(4, 4),
    )
    vae = diffusers.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        sample_size=128,
    )
    return {
        "transformer": transformer,
        "vae": vae,
        "scheduler": flow(shift=7.0),
        "text_encoder": parts.qwen_vl_text(32),
        "tokenizer": parts.qwen_tokenizer(),
        "text_encoder_2": parts.t5_text(vocab_size=400),
        "tokenizer_2": transformers.ByT5Tokenizer(),
        "guider": AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2),
        "ocr_guider": AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=3),
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


def qwen_image() -> dict[str, Any]:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    return with_t5(
        transformer,
        parts.qwen_image_vae(),
        flow(),
        text_encoder=parts.qwen_vl_text(),
        tokenizer=parts.qwen_tokenizer(),
    )


def ovis() -> dict[str, Any]:
    transformer = diffusers.OvisImageTransformer2DModel(
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=ROPE_16,
    )
    return with_t5(
        transformer,
        parts.flow_vae(4),
        flow(),
        text_encoder=parts.qwen3_text(Qwen3Model),
        tokenizer=parts.qwen_tokenizer(),
    )


def prx(in_pixels: bool = False) -> dict[str, Any]:
    options = {"bottleneck_size": 8, "resolution_embeds": True} if in_pixels else {}
    transformer = diffusers.PRXTransformer2DModel(
        patch_size=1,
        in_channels=3 if in_pixels else 4,
        context_in_dim=16,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[2, 2],
        **options,
    )
    if in_pixels:
        text = {"text_encoder": parts.qwen3_text(Qwen3Model), "tokenizer": parts.qwen_tokenizer()}
        return {"transformer": transformer, "scheduler": flow(), **text, "prompt_max_tokens": 64}
    sizes = {
        "vocab_size": parts.VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "layer_types": ["full_attention"],
    }
    module = transformers.T5GemmaModuleConfig(**sizes)
    config = transformers.T5GemmaConfig(encoder=module, is_encoder_decoder=False, **sizes)
    text_encoder = T5GemmaEncoder(config.encoder)
    vae = parts.flow_vae(4, shift_factor=0.0, scaling_factor=1.0)
    return with_t5(transformer, vae, flow(), text_encoder=text_encoder, tokenizer=parts.gemma_tokenizer())


def z_image() -> dict[str, Any]:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        norm_eps=1e-5,
        qk_norm=True,
        cap_feat_dim=16,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    vae = parts.small_vae(16, scaling_factor=0.36, shift_factor=0.12)
    return with_t5(
        transformer, vae, flow(), text_encoder=parts.qwen3_text(Qwen3Model), tokenizer=parts.qwen_tokenizer()
    )


def hidream() -> dict[str, Any]:
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[parts.TEXT_DIM, 16],
        text_emb_dim=2 * parts.TEXT_DIM,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(128, 128),
        llama_layers=(0, 1),
    )
    llama = parts.small_decoder(transformers.LlamaConfig, transformers.LlamaForCausalLM)
    return with_t5(
        transformer,
        parts.small_vae(4, (8,), scaling_factor=0.36, shift_factor=0.12),  # it always makes about 128 x 128 latents
        flow(),
        text_encoder=parts.clip_text(CLIPTextModelWithProjection, positions=128),
        tokenizer=parts.clip_tokenizer(),
        text_encoder_2=parts.clip_text(CLIPTextModelWithProjection, positions=128),
        tokenizer_2=parts.clip_tokenizer(),
        text_encoder_3=parts.t5_text(),
        tokenizer_3=parts.t5_tokenizer(),
        text_encoder_4=llama,
        tokenizer_4=parts.llama_tokenizer(),
    )


def kandinsky_5(picture: bool) -> dict[str, Any]:
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=16,
        in_text_dim=32,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=16,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(1, 1, 2),
        visual_cond=False,
        attention_type="regular",
    )
    return {
        "transformer": transformer,
        "vae": parts.flow_vae(16) if picture else parts.hunyuan_video_vae(16, 2),
        "scheduler": flow(shift=7.0),
        "text_encoder": parts.qwen_vl_text(32),
        "tokenizer": parts.qwen_tokenizer(),
        "text_encoder_2": parts.clip_text(dim=16),
        "tokenizer_2": parts.clip_tokenizer(),
    }


def krea_2() -> dict[str, Any]:
    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
        rope_theta=1000.0,
    )
    text = {
        "vocab_size": parts.VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision)
    return {
        "transformer": transformer,
        "vae": parts.qwen_image_vae(),
        "scheduler": flow(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=6400),
        "text_encoder": transformers.Qwen3VLModel(config),
        "tokenizer": parts.qwen_tokenizer(),
        "text_encoder_select_layers": (0, 1, 2),
    }


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
    Family("StableDiffusion3Pipeline", "image", stable_diffusion_3),
    Family("StableDiffusion3PAGPipeline", "image", stable_diffusion_3, call={"pag_scale": 0.7}),
    Family("FluxPipeline", "image", flux, takes_negative=False, call=T5_CALL),
    Family("FluxKontextPipeline", "image", flux, takes_negative=False, call={**T5_CALL, "max_area": 32 * 32}),
    Family("Flux2KleinPipeline", "image", flux_2_klein, takes_negative=False, call={"text_encoder_out_layers": [1]}),
    Family("Flux2KleinKVPipeline", "image", flux_2_klein, takes_negative=False, call={"text_encoder_out_layers": [1]}),
    Family("ChromaPipeline", "image", chroma, call=T5_CALL),
    Family("BriaPipeline", "image", bria, call=T5_CALL),
    Family("BriaFiboPipeline", "image", bria_fibo),
    Family("AuraFlowPipeline", "image", aura_flow, call=T5_CALL),
    Family("PixArtAlphaPipeline", "image", functools.partial(pixart, False), call=PIXART_CALL),
    Family("PixArtSigmaPipeline", "image", functools.partial(pixart, True), call=PIXART_CALL),
    Family("PixArtSigmaPAGPipeline", "image", functools.partial(pixart, True), call=PIXART_CALL),
    Family("CogView3PlusPipeline", "image", cogview_3, call=T5_CALL),
    Family("CogView4Pipeline", "image", cogview_4, call={"max_sequence_length": 64}),
    Family("HunyuanDiTPipeline", "image", hunyuan_dit, call=NO_BINNING),
    Family("HunyuanDiTPAGPipeline", "image", hunyuan_dit, call=NO_BINNING),
    Family("HunyuanImagePipeline", "image", hunyuan_image),
    Family("LuminaPipeline", "image", lumina, call={"clean_caption": False}),
    Family("Lumina2Pipeline", "image", lumina_2),
    Family("SanaPipeline", "image", sana, other_size=64, call=SANA_CALL),
    Family("SanaPAGPipeline", "image", sana, other_size=64, call=SANA_CALL),
    Family("SanaSprintPipeline", "image", functools.partial(sana, True), other_size=64, steps=(2,), takes_negative=False, call=SANA_CALL),
    Family("QwenImagePipeline", "image", qwen_image, call={"true_cfg_scale": 3.0}),
    Family("OvisImagePipeline", "image", ovis),
    Family("PRXPipeline", "image", prx, call=NO_BINNING),
    Family("PRXPixelPipeline", "image", functools.partial(prx, True), call=NO_BINNING),
    Family("ZImagePipeline", "image", z_image),
    Family("HiDreamImagePipeline", "image", hidream, size=128, other_size=256, steps=(2,), jobs=2, call={"max_sequence_length": 64}),
    Family("Kandinsky5T2IPipeline", "image", functools.partial(kandinsky_5, True), size=1024, other_size=1024, steps=(2,), jobs=2),
    Family("Krea2Pipeline", "image", krea_2),
    Family("AmusedPipeline", "image", amused),
)  # fmt: skip
