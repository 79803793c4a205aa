"""Image models whose prompts go through a vision-language processor: Qwen-Image 2.1, Fibo 2, GLM, LongCat and others.

These processors contain a video processor, which needs torchvision.
"""

from __future__ import annotations

from typing import Any

import diffusers
import transformers

from benchmarks.families import parts, vaes
from benchmarks.families.building import T5_CALL, components, flow, small
from benchmarks.families.family import Family


def with_qwen_3_vl(vae: Any, layers: int = 2, **denoiser: Any) -> dict[str, Any]:
    """Returns the arguments of a pipeline's __init__ whose prompts a Qwen 3 VL encodes."""
    return {
        **denoiser,
        "vae": vae,
        "scheduler": flow(use_dynamic_shifting=True),
        "text_encoder": parts.qwen_3_vl(transformers.Qwen3VLForConditionalGeneration, layers),
        "processor": parts.qwen_processor(transformers.Qwen3VLProcessor),
    }


def qwen_image_21() -> dict[str, Any]:
    transformer = small(
        diffusers.QwenImage21Transformer2DModel,
        num_layers=2,
        attention_head_dim=16,
        context_in_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKLQwenImage21(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1] * 4,
        latents_std=[1.1] * 4,
    )
    return with_qwen_3_vl(vae, transformer=transformer)


def bria_fibo_2() -> dict[str, Any]:
    transformer = diffusers.BriaFibo2Transformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=3 * 16,  # three layers of the text encoder
        injection_layer_ids=(0, 1, 2, 3, 4),
        perceiver_num_layers=1,
        min_num_gist_tokens=4,
        max_num_gist_tokens=8,
        gist_step=2,
        gist_min_text_len=16,
        gist_max_text_len=64,
        axes_dims=(4, 6, 6),
        axes_lens=(64, 32, 32),
    )
    return with_qwen_3_vl(vaes.flux_2_vae(4, (4, 8)), layers=36, transformer=transformer)  # it reads the 35th layer


def long_cat() -> dict[str, Any]:
    transformer = small(
        diffusers.LongCatImageTransformer2DModel,
        in_channels=64,
        attention_head_dim=16,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 6, 6],
    )
    return components(
        transformer,
        vaes.flow_vae(16),
        flow(use_dynamic_shifting=True),
        (parts.qwen_vl_text(), parts.qwen_tokenizer()),
        text_processor=parts.qwen_processor(transformers.Qwen2VLProcessor),
    )


def nucleus() -> dict[str, Any]:
    transformer = small(
        diffusers.NucleusMoEImageTransformer2DModel,
        in_channels=16,
        num_layers=5,  # the first three and the last have no experts
        attention_head_dim=16,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        mlp_ratio=2.0,
        num_experts=4,
        moe_intermediate_dim=16,
        capacity_factors=2.0,
    )
    return with_qwen_3_vl(vaes.qwen_image_vae(), layers=8, transformer=transformer)


def dream_lite() -> dict[str, Any]:
    unet = diffusers.DreamLiteUNetModel(
        sample_size=8,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        block_out_channels=(16, 32),
        cross_attention_dim=16,
        attention_head_dim=8,
        layers_per_block=1,
        norm_num_groups=8,
    )
    return with_qwen_3_vl(vaes.tiny_vae(2), unet=unet) | {"tokenizer": parts.qwen_tokenizer()}


def omni_gen() -> dict[str, Any]:
    transformer = small(
        diffusers.OmniGenTransformer2DModel,
        hidden_size=16,
        num_key_value_heads=2,
        intermediate_size=32,
        num_layers=2,
        pad_token_id=0,
        vocab_size=parts.VOCABULARY,
        time_step_dim=4,
        rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4},
    )
    return {
        "transformer": transformer,
        "vae": vaes.small_vae(4, (8, 8, 8, 8)),  # the pipeline assumes a factor of 8
        "scheduler": flow(invert_sigmas=True, num_train_timesteps=1),
        "tokenizer": parts.llama_tokenizer(),
    }


def glm_image() -> dict[str, Any]:
    """First generates a plan of the image token by token: with torch's global generator and state on the model."""
    text = {**parts.DECODER, "head_dim": 8, "vision_vocab_size": 128, "pad_token_id": 0, "eos_token_id": None}
    text["rope_parameters"] = {"mrope_section": (2, 1, 1), "rope_type": "default", "rope_theta": 10000.0}
    config = transformers.GlmImageConfig(
        text_config=text,
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "num_heads": 2,
            "image_size": 32,
            "patch_size": 16,
            "intermediate_size": 16,
        },
        vq_config={"embed_dim": 16, "num_embeddings": 128, "latent_channels": 16},
        image_token_id=2,
        image_start_token_id=1,
        image_end_token_id=parts.VOCABULARY - 1,
    )
    transformer = small(
        diffusers.GlmImageTransformer2DModel,
        text_embed_dim=parts.TEXT_DIM,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=128,
    )
    return {
        "transformer": transformer,
        "vae": vaes.small_vae(4, (8, 8, 8, 8), latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        "scheduler": flow(),
        "text_encoder": parts.t5_text(vocab_size=400),
        "tokenizer": transformers.ByT5Tokenizer(),
        "vision_language_encoder": transformers.GlmImageForConditionalGeneration(config),
        "processor": parts.glm_image_processor(),
    }


FAMILIES = (
    Family("QwenImage21Pipeline", "image", qwen_image_21, other_size=64, needs="torchvision",
           call={"true_cfg_scale": 3.0}),
    Family("BriaFibo2Pipeline", "image", bria_fibo_2, needs="torchvision"),
    Family("GlmImagePipeline", "image", glm_image, size=64, other_size=96, takes_negative=False, needs="torchvision",
           call=T5_CALL),
    Family("LongCatImagePipeline", "image", long_cat, needs="torchvision", call={"enable_prompt_rewrite": False}),
    Family("NucleusMoEImagePipeline", "image", nucleus, needs="torchvision"),
    Family("DreamLitePipeline", "image", dream_lite, needs="torchvision"),
    Family("DreamLiteMobilePipeline", "image", dream_lite, needs="torchvision", takes_negative=False),
    Family("OmniGenPipeline", "image", omni_gen, needs="torchvision", takes_negative=False),
)  # fmt: skip
