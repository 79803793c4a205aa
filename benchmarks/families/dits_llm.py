"""Transformers whose text encoder is a language model: Qwen-Image, Z-Image, HiDream, Hunyuan-Image, Kandinsky 5, PRX, Krea 2."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import diffusers
import transformers
from transformers import CLIPTextModelWithProjection, Qwen3Model
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from benchmarks.families import parts
from benchmarks.families.dits_common import flow, with_t5
from benchmarks.families.family import Family


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


def whole_t5gemma(folder: Path) -> None:
    """The encoder's config as its authors' folder has it: inside that of the whole T5Gemma."""
    file = folder / "text_encoder/config.json"
    file.write_text(json.dumps({"model_type": "t5gemma", "encoder": json.loads(file.read_text())}))


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


NO_BINNING = {"use_resolution_binning": False}

FAMILIES = (
    Family("HunyuanImagePipeline", "image", hunyuan_image),
    Family("QwenImagePipeline", "image", qwen_image, call={"true_cfg_scale": 3.0}),
    Family("PRXPipeline", "image", prx, as_published=whole_t5gemma, call=NO_BINNING),
    Family("PRXPixelPipeline", "image", functools.partial(prx, True), call=NO_BINNING),
    Family("ZImagePipeline", "image", z_image),
    Family("HiDreamImagePipeline", "image", hidream, size=128, other_size=256, steps=(2,), jobs=2, call={"max_sequence_length": 64}),
    Family("Kandinsky5T2IPipeline", "image", functools.partial(kandinsky_5, True), size=1024, other_size=1024, steps=(2,), jobs=2),
    Family("Krea2Pipeline", "image", krea_2),
)  # fmt: skip
