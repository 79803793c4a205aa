"""Image transformers whose text encoder is a language model: Qwen-Image, Z-Image, HiDream, Hunyuan-Image and others."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import diffusers
import transformers
from transformers import CLIPTextModelWithProjection, Qwen3Model
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

from benchmarks.families import encoders, parts, vaes
from benchmarks.families.building import components, flow, small
from benchmarks.families.family import Family


def qwen_image() -> dict[str, Any]:
    transformer = small(
        diffusers.QwenImageTransformer2DModel,
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    return components(transformer, vaes.qwen_image_vae(), flow(), encoders.qwen_vl())


def z_image(**options: Any) -> dict[str, Any]:
    transformer = small(
        diffusers.ZImageTransformer2DModel,
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
        **options,
    )
    vae = vaes.small_vae(16, scaling_factor=0.36, shift_factor=0.12)
    return components(transformer, vae, flow(), encoders.qwen3())


def z_image_omni() -> dict[str, Any]:
    """Has a vision tower, which text-to-image requests do not use."""
    config = transformers.Siglip2VisionConfig(**parts.VISION, num_patches=16)
    return {
        **z_image(siglip_feat_dim=16),
        "siglip": transformers.Siglip2VisionModel(config),
        "siglip_processor": transformers.Siglip2ImageProcessorPil(),
    }


def ernie_image() -> dict[str, Any]:
    transformer = small(
        diffusers.ErnieImageTransformer2DModel,
        hidden_size=32,
        num_layers=2,
        ffn_hidden_size=32,
        text_in_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    return components(
        transformer,
        vaes.flux_2_vae(),
        flow(),
        (parts.mistral_3(transformers.Mistral3Model), parts.llama_tokenizer()),
        pe=parts.small_decoder(transformers.Ministral3Config, transformers.Ministral3ForCausalLM),
        pe_tokenizer=parts.writing_tokenizer(),
    )


def ideogram_4() -> dict[str, Any]:
    def transformer() -> Any:
        return small(
            diffusers.Ideogram4Transformer2DModel,
            num_layers=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=13 * 16,  # the pipeline reads thirteen layers of the text encoder
            mrope_section=(2, 1, 1),
        )

    return components(
        transformer(),
        vaes.flux_2_vae(),
        flow(),
        encoders.qwen3_vl(layers=36),
        unconditional_transformer=transformer(),
    )


def hidream() -> dict[str, Any]:
    transformer = small(
        diffusers.HiDreamImageTransformer2DModel,
        patch_size=2,
        num_attention_heads=4,
        caption_channels=[parts.TEXT_DIM, 16],
        text_emb_dim=2 * parts.TEXT_DIM,
        axes_dims_rope=(4, 2, 2),
        llama_layers=(0, 1),
    )
    return components(
        transformer,
        vaes.small_vae(
            4, (8,), scaling_factor=0.36, shift_factor=0.12
        ),  # the pipeline always makes about 128 x 128 latents
        flow(),
        encoders.clip(CLIPTextModelWithProjection, positions=128),
        encoders.clip(CLIPTextModelWithProjection, positions=128),
        encoders.t5(),
        encoders.llama(transformers.LlamaForCausalLM),
    )


def hunyuan_image() -> dict[str, Any]:
    from diffusers.guiders import AdaptiveProjectedMixGuidance

    transformer = small(
        diffusers.HunyuanImageTransformer2DModel,
        num_attention_heads=4,
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
    return components(
        transformer,
        vae,
        flow(shift=7.0),
        encoders.qwen_vl(32),
        encoders.byt5(),
        guider=AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2),
        ocr_guider=AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=3),
    )


def kandinsky_5_transformer(**options: Any) -> Any:
    return small(
        diffusers.Kandinsky5Transformer3DModel,
        in_visual_dim=16,
        in_text_dim=32,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=16,
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(1, 1, 2),
        **options,
    )


def kandinsky_5(picture: bool) -> dict[str, Any]:
    return components(
        kandinsky_5_transformer(),
        vaes.flow_vae(16) if picture else vaes.hunyuan_video_vae(16, 2),
        flow(shift=7.0),
        encoders.qwen_vl(32),
        encoders.clip(dim=16),
    )


def prx(in_pixels: bool = False) -> dict[str, Any]:
    options = {"bottleneck_size": 8, "resolution_embeds": True} if in_pixels else {}
    transformer = small(
        diffusers.PRXTransformer2DModel,
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
    one_layer = {"num_hidden_layers": 1, "num_key_value_heads": 1, "layer_types": ["full_attention"]}
    sizes = {**parts.DECODER, **one_layer, "head_dim": 8, "max_position_embeddings": 128}
    module = transformers.T5GemmaModuleConfig(**sizes)
    config = transformers.T5GemmaConfig(encoder=module, is_encoder_decoder=False, **sizes)
    text_encoder = T5GemmaEncoder(config.encoder)
    vae = vaes.flow_vae(4, shift_factor=0.0, scaling_factor=1.0)
    return components(transformer, vae, flow(), (text_encoder, parts.gemma_tokenizer()))


def nest_encoder_config(folder: Path) -> None:
    """Nests the encoder's config inside that of the whole T5Gemma, as in the folder that its authors publish."""
    file = folder / "text_encoder/config.json"
    file.write_text(json.dumps({"model_type": "t5gemma", "encoder": json.loads(file.read_text())}))


def krea_2() -> dict[str, Any]:
    transformer = small(
        diffusers.Krea2Transformer2DModel,
        in_channels=16,
        num_layers=2,
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
    )
    return components(
        transformer,
        vaes.qwen_image_vae(),
        flow(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=6400),
        encoders.qwen3_vl(),
        text_encoder_select_layers=(0, 1, 2),
    )


IDEOGRAM_CALL = {"max_sequence_length": 128, "guidance_schedule": [7.0, 7.0, 5.0, 3.0]}
NO_BINNING = {"use_resolution_binning": False}

FAMILIES = (
    Family("HunyuanImagePipeline", "image", hunyuan_image),
    Family("QwenImagePipeline", "image", qwen_image, call={"true_cfg_scale": 3.0}),
    Family("PRXPipeline", "image", prx, as_published=nest_encoder_config, call=NO_BINNING),
    Family("PRXPixelPipeline", "image", functools.partial(prx, True), call=NO_BINNING),
    Family("ZImagePipeline", "image", z_image),
    Family("ZImageOmniPipeline", "image", z_image_omni),
    Family("ErnieImagePipeline", "image", ernie_image),
    Family("Ideogram4Pipeline", "image", ideogram_4, takes_negative=False, takes_guidance=False, steps=(4,),
           call=IDEOGRAM_CALL),
    Family("HiDreamImagePipeline", "image", hidream, size=128, other_size=256, steps=(2,), jobs=2,
           call={"max_sequence_length": 64}),
    Family("Kandinsky5T2IPipeline", "image", functools.partial(kandinsky_5, True), size=1024, other_size=1024,
           steps=(2,), jobs=2),
    Family("Krea2Pipeline", "image", krea_2),
)  # fmt: skip
