"""Video transformers that take pictures or clips: siblings of LTX, CogVideoX, Hunyuan Video, Kandinsky 5 and others."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import transformers

from benchmarks.families import parts, vaes
from benchmarks.families.building import T5_CALL, like, small
from benchmarks.families.clips import (
    PLAIN_TEMPLATE,
    SANA_CALL,
    cogvideox,
    hunyuan_video,
    hunyuan_video_15,
    ltx,
    motif,
    sana_video,
)
from benchmarks.families.family import Family
from benchmarks.families.pictures_llm import kandinsky_5_seeing
from benchmarks.families.sound import LTX_CALL, kandinsky_6, ltx_2
from benchmarks.families.unets import animate_diff


def cogvideox_wider(in_channels: int, **options: Any) -> dict[str, Any]:
    """CogVideoX whose transformer takes a picture or a clip of control beside the latents."""
    usual = cogvideox()
    return {**usual, "transformer": like(usual["transformer"], in_channels=in_channels, **options)}


def hunyuan_wider(in_channels: int, **options: Any) -> dict[str, Any]:
    usual = hunyuan_video()
    return {**usual, "transformer": like(usual["transformer"], in_channels=in_channels, **options)}


def hunyuan_image_to_video() -> dict[str, Any]:
    """Its text encoder sees the picture."""
    vision = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision, image_size=28, patch_size=14),
        text_config=transformers.LlamaConfig(**parts.DECODER, pad_token_id=0, bos_token_id=1, eos_token_id=2),
        image_token_index=parts.VOCABULARY - 1,
        pad_token_id=0,
    )
    return {
        **hunyuan_wider(9, image_condition_type="latent_concat", guidance_embeds=False),
        "text_encoder": transformers.LlavaForConditionalGeneration(config),
        "image_processor": parts.clip_image_processor(),
    }


def cogvideox_controlled() -> dict[str, Any]:
    return {**cogvideox_wider(8), "scheduler": diffusers.CogVideoXDDIMScheduler()}


def kandinsky_5_image() -> dict[str, Any]:
    return {**kandinsky_5_seeing(False), "vae": vaes.hunyuan_video_vae(16)}


def kandinsky_6_image() -> dict[str, Any]:
    usual = kandinsky_6()
    transformer = like(usual["transformer"], visual_token_type_num_embeddings=2)
    return {**usual, "transformer": transformer, "vae": vaes.hunyuan_video_vae(16)}


def siglip() -> dict[str, Any]:
    config = transformers.SiglipVisionConfig(**parts.VISION, image_size=32, patch_size=16)
    return {
        "image_encoder": transformers.SiglipVisionModel(config),
        "feature_extractor": transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}),
    }


def framepack() -> dict[str, Any]:
    transformer = small(
        diffusers.HunyuanVideoFramepackTransformer3DModel,
        attention_head_dim=10,
        patch_size=2,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(2, 4, 4),
        has_image_proj=True,
        image_proj_dim=16,
        has_clean_x_embedder=True,
    )
    return {**hunyuan_video(), "transformer": transformer, **siglip()}


def hunyuan_video_15_image() -> dict[str, Any]:
    usual = hunyuan_video_15()
    transformer = like(usual["transformer"], task_type="i2v", image_embed_dim=16)
    return {**usual, "transformer": transformer, **siglip()}


def motif_image() -> dict[str, Any]:
    size = {"height": 16, "width": 16}
    usual = motif()
    vision = transformers.SiglipVisionConfig(**parts.VISION, image_size=16, patch_size=4)
    text = usual["text_encoder"].config.text_config
    config = transformers.T5Gemma2EncoderConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    return {
        **usual,
        "text_encoder": transformers.T5Gemma2Encoder(config),
        "transformer": like(usual["transformer"], image_embed_dim=16),
        "feature_extractor": transformers.SiglipImageProcessorPil(size=size),
    }


def latent_upsampler(cls: Any, channels: int) -> Any:
    return cls(in_channels=channels, mid_channels=32, num_blocks_per_stage=1, dims=3)


def ltx_upsample() -> dict[str, Any]:
    from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

    return {"vae": ltx()["vae"], "latent_upsampler": latent_upsampler(LTXLatentUpsamplerModel, 8)}


def ltx_2_upsample() -> dict[str, Any]:
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

    return {"vae": ltx_2()["vae"], "latent_upsampler": latent_upsampler(LTX2LatentUpsamplerModel, 4)}


IMAGE: Any = {"takes": ("image",)}
ENDS: Any = {"takes": ("image", "last_image")}
VIDEO: Any = {"takes": ("video",)}
ON_LTX: Any = {"base": "LTXPipeline", "other_size": 64, "num_frames": 9, "call": T5_CALL}
# The class compresses a picture as a frame of a clip, with PyAV, before it reads it.
ON_LTX_2: Any = {"needs": "av", "other_size": 64, "num_frames": 9, "call": LTX_CALL}
COG_CALL: Any = {"num_frames": 8, "call": {"max_sequence_length": 16}}
HUNYUAN_CALL: Any = {"num_frames": 9, "call": {"prompt_template": PLAIN_TEMPLATE, "max_sequence_length": 32}}
LLAVA_TEMPLATE = {"template": "{}", "crop_start": 0, "image_emb_len": 4, "image_emb_start": 5, "image_emb_end": 9}
static_ltx = functools.partial(ltx, False)

FAMILIES = (
    Family("LTXImageToVideoPipeline", "video", static_ltx, **ON_LTX, **IMAGE),
    Family("LTXConditionPipeline", "video", static_ltx, **ON_LTX, **ENDS),
    Family("LTXLatentUpsamplePipeline", "video", ltx_upsample, size=64, other_size=128, num_frames=9, **VIDEO),
    Family("LTX2ImageToVideoPipeline", "video", ltx_2, base="LTX2Pipeline", **ON_LTX_2, **IMAGE),
    Family("LTX2ConditionPipeline", "video", ltx_2, base="LTX2Pipeline", **ON_LTX_2, **ENDS),
    Family("LTX2DFRPipeline", "video", ltx_2, needs="av", other_size=64, num_frames=9,
           call={"max_sequence_length": 32}, **ENDS),
    Family("LTX2LatentUpsamplePipeline", "video", ltx_2_upsample, size=64, other_size=128, num_frames=9, **VIDEO),
    Family("CogVideoXImageToVideoPipeline", "video", functools.partial(cogvideox_wider, 8), **COG_CALL, **IMAGE),
    Family("CogVideoXVideoToVideoPipeline", "video", cogvideox, base="CogVideoXPipeline", **COG_CALL, **VIDEO),
    Family("CogVideoXFunControlPipeline", "video", cogvideox_controlled, **COG_CALL,
           takes=("control",)),
    Family("HunyuanSkyreelsImageToVideoPipeline", "video", functools.partial(hunyuan_wider, 8), **HUNYUAN_CALL,
           **IMAGE),
    Family("HunyuanVideoImageToVideoPipeline", "video", hunyuan_image_to_video, num_frames=9,
           call={"prompt_template": LLAVA_TEMPLATE, "max_sequence_length": 32}, **IMAGE),
    Family("HunyuanVideoFramepackPipeline", "video", framepack, num_frames=9,
           call={"prompt_template": PLAIN_TEMPLATE, "max_sequence_length": 32, "latent_window_size": 3}, **ENDS),
    Family("HunyuanVideo15ImageToVideoPipeline", "video", hunyuan_video_15_image, num_frames=9, **IMAGE),
    Family("MotifVideoImage2VideoPipeline", "video", motif_image, num_frames=9, call=T5_CALL, **IMAGE),
    Family("SanaImageToVideoPipeline", "video", sana_video, base="SanaVideoPipeline", other_size=64, num_frames=9,
           call=SANA_CALL, **IMAGE),
    Family("Kandinsky5I2VPipeline", "video", kandinsky_5_image, num_frames=21, **IMAGE),
    Family("Kandinsky6TI2VAPipeline", "video", kandinsky_6_image, num_frames=5, needs="torchvision",
           **IMAGE),
    Family("AnimateDiffVideoToVideoPipeline", "video", animate_diff, num_frames=4, base="AnimateDiffPipeline",
           **VIDEO),
)  # fmt: skip
