"""Image transformers with a language model that take pictures: Qwen-Image, Z-Image, LongCat, JoyImage and others."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import transformers

from benchmarks.families import parts, vaes
from benchmarks.families.building import flow, small
from benchmarks.families.dits_llm import kandinsky_5, kandinsky_5_transformer, qwen_image, z_image
from benchmarks.families.family import Family
from benchmarks.families.vision import bria_fibo_2, dream_lite, long_cat, omni_gen, qwen_image_21


def qwen_image_edit() -> dict[str, Any]:
    """The pipelines bring each picture to a megapixel, so that this VAE compresses by 32."""
    processor = parts.qwen_processor(transformers.Qwen2VLProcessor)
    return {**qwen_image(), "vae": coarse_qwen_image_vae(), "processor": processor}


def coarse_qwen_image_vae() -> Any:
    return vaes.qwen_image_vae(
        base_dim=2, dim_mult=[1, 1, 1, 1, 2, 2], temperal_downsample=[False, True, True, True, True]
    )


def kandinsky_5_seeing(picture: bool) -> dict[str, Any]:
    transformer = kandinsky_5_transformer(visual_cond=True)
    seeing = (
        {"tokenizer": parts.qwen_processor(transformers.Qwen2VLProcessor)} if picture else {}
    )  # the text encoder of clips reads the prompt alone
    vae = {"vae": vaes.flow_vae(16, stages=(4, 4, 4, 4))} if picture else {}
    return {**kandinsky_5(picture), "transformer": transformer, **seeing, **vae}


def long_cat_edit() -> dict[str, Any]:
    return {**long_cat(), "vae": vaes.flow_vae(16, stages=(4,) * 6)}


def joy_image(transformer_class: type) -> dict[str, Any]:
    transformer = small(
        transformer_class,
        hidden_size=32,
        num_layers=2,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        num_attention_heads=2,
        rope_dim_list=[4, 6, 6],
    )
    processor = parts.qwen_processor(transformers.Qwen3VLProcessor)
    return {
        "scheduler": flow(),
        "vae": vaes.wan_vae(**COARSE),
        "text_encoder": parts.qwen_3_vl(transformers.Qwen3VLForConditionalGeneration),
        "tokenizer": processor.tokenizer,
        "transformer": transformer,
        "processor": processor,
    }


# For pipelines that bring each picture to a megapixel.
COARSE = {"base_dim": 2, "dim_mult": [1] * 6, "temperal_downsample": [False, True, True, False, False]}
COARSE |= {"scale_factor_spatial": 32}
QWEN_CALL: Any = {"call": {"true_cfg_scale": 3.0}}
TAKES_IMAGE: Any = {"takes": ("image",)}
TAKES_IMAGES: Any = {"takes": ("images",)}
TAKES_MASK: Any = {"takes": ("image", "mask")}
EDIT_SIZE: Any = {"size": 64, "other_size": 128, "steps": (2,), "jobs": 2}  # a megapixel takes seconds to encode
VISION: Any = {"needs": "torchvision"}

FAMILIES = (
    Family("QwenImageImg2ImgPipeline", "image", qwen_image, base="QwenImagePipeline", **QWEN_CALL, **TAKES_IMAGE),
    Family("QwenImageInpaintPipeline", "image", qwen_image, base="QwenImagePipeline", **QWEN_CALL, **TAKES_MASK),
    Family("QwenImageEditPipeline", "image", qwen_image_edit, **EDIT_SIZE, **VISION, **QWEN_CALL, **TAKES_IMAGE),
    Family("QwenImageEditInpaintPipeline", "image", qwen_image_edit, **EDIT_SIZE, base="QwenImageEditPipeline",
           **VISION, **QWEN_CALL, **TAKES_MASK),
    Family("QwenImageEditPlusPipeline", "image", qwen_image_edit, **EDIT_SIZE, **VISION, **QWEN_CALL, **TAKES_IMAGES),
    Family("QwenImage21Pipeline", "image", qwen_image_21, size=64, other_size=96, **VISION,
           call={"true_cfg_scale": 3.0, "output_resolution": 64}, **TAKES_IMAGES),
    Family("ZImageImg2ImgPipeline", "image", z_image, base="ZImagePipeline", **TAKES_IMAGE),
    Family("ZImageInpaintPipeline", "image", z_image, base="ZImagePipeline", **TAKES_MASK),
    Family("Kandinsky5I2IPipeline", "image", functools.partial(kandinsky_5_seeing, True), size=1024,
           other_size=1024, steps=(2,), jobs=2, **VISION, **TAKES_IMAGE),
    Family("BriaFibo2Pipeline", "image", bria_fibo_2, **VISION, **TAKES_IMAGE),
    Family("LongCatImageEditPipeline", "image", long_cat_edit, **EDIT_SIZE, **VISION, **TAKES_IMAGE),
    Family("JoyImageEditPipeline", "image", functools.partial(joy_image, diffusers.JoyImageEditTransformer3DModel),
           **EDIT_SIZE, **VISION, **TAKES_IMAGE),
    Family("JoyImageEditPlusPipeline", "image",
           functools.partial(joy_image, diffusers.JoyImageEditPlusTransformer3DModel), **EDIT_SIZE,
           **VISION, **TAKES_IMAGES),
    Family("DreamLitePipeline", "image", dream_lite, **VISION, **TAKES_IMAGE),
    Family("DreamLiteMobilePipeline", "image", dream_lite, takes_negative=False, **VISION, **TAKES_IMAGE),
    Family("OmniGenPipeline", "image", omni_gen, takes_negative=False,
           prompt="%s <img><|image_1|></img> <img><|image_2|></img>", **VISION, **TAKES_IMAGES),
)  # fmt: skip
