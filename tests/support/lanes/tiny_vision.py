"""Vision-language checkpoints of a few thousand random weights, each with the library's own processor.

Every checkpoint is a folder as the library saves it: weights, tokenizer, processor and a template of its family's form.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import GenerationConfig

from models.loading.no_videos import NoVideos, stand_in_for_videos
from models.required_packages import is_installed
from tests.support.lanes.tiny_chat import PRINTABLE, tiny_tokenizer

TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 2048, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip
M_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
TOWER = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8, "initializer_range": 0.3,
}  # fmt: skip
# Content is text or parts, and a picture is the family's token among them.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}IMAGE{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def picture(width: int, height: int, seed: int = 0, kind: str = "PNG") -> bytes:
    """Returns the file of a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def tokenizer_with(image: str, more: Sequence[str] = (), names: dict[str, str] | None = None) -> Any:
    """One token per printable ASCII character, and the family's own tokens around pictures."""
    tokenizer = tiny_tokenizer([image, *more], extra_special_tokens=names or {})
    tokenizer.chat_template = None  # the processor has it
    return tokenizer


def videos(name: str) -> Any:
    """The processor for video of this class, or what stands in for it where torchvision is not installed."""
    return getattr(transformers, name)() if is_installed("torchvision") else NoVideos()


def qwen2_5_vl() -> tuple[Any, Any]:
    more = {"window_size": 16, "fullatt_block_indexes": [1]}
    return _qwen(transformers.Qwen2_5_VLProcessor, "Qwen2VLVideoProcessor", transformers.Qwen2_5_VLConfig, more)


def qwen3_vl() -> tuple[Any, Any]:
    more = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    return _qwen(transformers.Qwen3VLProcessor, "Qwen3VLVideoProcessor", transformers.Qwen3VLConfig, more)


def _qwen(processor_class: Any, video_class: str, config_class: Any, more: dict[str, Any]) -> tuple[Any, Any]:
    """more: of the vision encoder's config."""
    texts = {
        "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
    }  # fmt: skip
    image, *others = texts.values()
    tokenizer = tokenizer_with(image, others)
    image_processor = transformers.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    )
    processor = processor_class(image_processor, tokenizer, videos(video_class))
    processor.chat_template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "depth": 2, "num_heads": 2, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    config = config_class(
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": M_ROPE},
        vision_config={**vision, **more},
        **{name: tokenizer.convert_tokens_to_ids(text) for name, text in texts.items()},
    )
    return processor, config


def gemma3() -> tuple[Any, Any]:
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = tokenizer_with("<image_soft_token>", ["<start_of_image>", "<end_of_image>"], names)
    image_processor = transformers.Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    processor = transformers.Gemma3Processor(image_processor, tokenizer, image_seq_length=4)
    config = transformers.Gemma3Config(
        text_config={**TEXT, "vocab_size": len(tokenizer), "sliding_window": 16},
        vision_config={**TOWER, "image_size": 16, "patch_size": 4},
        mm_tokens_per_image=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )
    processor.chat_template = TEMPLATE.replace("IMAGE", "<start_of_image>")
    return processor, config


def idefics3() -> tuple[Any, Any]:
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    more = ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *rows]
    tokenizer = tokenizer_with("<image>", more)
    image_processor = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    processor = transformers.Idefics3Processor(image_processor, tokenizer, image_seq_len=1)
    config = transformers.Idefics3Config(
        text_config={**TEXT, "model_type": "llama", "vocab_size": len(tokenizer)},
        vision_config=TOWER,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    processor.chat_template = TEMPLATE.replace("IMAGE", "<image>")
    return processor, config


def smolvlm() -> tuple[Any, Any]:
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    more = ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *rows]
    tokenizer = tokenizer_with("<image>", more)
    image_processor = transformers.SmolVLMImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    processor = transformers.SmolVLMProcessor(
        image_processor, tokenizer, videos("SmolVLMVideoProcessor"), image_seq_len=1
    )
    config = transformers.SmolVLMConfig(
        text_config={**TEXT, "model_type": "llama", "vocab_size": len(tokenizer)},
        vision_config=TOWER,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    # As SmolVLM's own: the content must be parts.
    processor.chat_template = (
        "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
        "{% if m['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
        "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}"
        "{% elif p['type'] == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    return processor, config


def llava() -> tuple[Any, Any]:
    tokenizer = tokenizer_with("<image>")
    image_processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    processor = transformers.LlavaProcessor(
        image_processor, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        text_config={**TEXT, "model_type": "llama", "vocab_size": len(tokenizer)},
        vision_config={**TOWER, "model_type": "clip_vision_model", "projection_dim": 16},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    # As LLaVA 1.5's own: no token begins the text, pictures come first, and content must be parts.
    processor.chat_template = (
        "{% for m in messages %}{{ m.role | upper }}: "
        "{% for p in m.content | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
        "{% for p in m.content | selectattr('type', 'equalto', 'text') %}{{ p.text }} {% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    return processor, config


def llava_next() -> tuple[Any, Any]:
    tokenizer = tokenizer_with("<image>")
    pinpoints = [[16, 32], [32, 16], [32, 32]]
    image_processor = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints
    )
    processor = transformers.LlavaNextProcessor(
        image_processor, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = transformers.LlavaNextConfig(
        text_config={**TEXT, "model_type": "mistral", "vocab_size": len(tokenizer), "sliding_window": None},
        vision_config={**TOWER, "model_type": "clip_vision_model", "projection_dim": 16},
        image_grid_pinpoints=pinpoints,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor.chat_template = TEMPLATE.replace("IMAGE", "<image>\n")
    return processor, config


def llava_onevision() -> tuple[Any, Any]:
    tokenizer = tokenizer_with("<image>", ["<video>"])
    pinpoints = [[16, 16], [16, 32], [32, 16], [32, 32]]
    image_processor = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints
    )
    processor = transformers.LlavaOnevisionProcessor(
        image_processor, tokenizer, videos("LlavaOnevisionVideoProcessor"), num_image_tokens=4,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        text_config={**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config={**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False},
        image_grid_pinpoints=pinpoints,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_aspect_ratio="anyres_max_9",
    )
    processor.chat_template = TEMPLATE.replace("IMAGE", "<image>\n")
    return processor, config


def internvl() -> tuple[Any, Any]:
    names = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tokenizer = tokenizer_with("<IMG_CONTEXT>", ["<img>", "</img>", "<video>"], names)
    image_processor = transformers.GotOcr2ImageProcessorPil(
        size={"height": 16, "width": 16}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    processor = transformers.InternVLProcessor(
        image_processor, tokenizer, videos("InternVLVideoProcessor"), image_seq_length=1
    )
    vision = {**TOWER, "image_size": [16, 16], "patch_size": [8, 8]}
    config = transformers.InternVLConfig(
        text_config={**TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
    )
    processor.chat_template = TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\n")
    return processor, config


FAMILIES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "gemma3": gemma3,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
}


def tiny_processor(family: str) -> Any:
    stand_in_for_videos()
    processor, _ = FAMILIES[family]()
    return processor


def tiny_vision_model(family: str) -> tuple[Any, Any]:
    """Returns the model of a family, and its processor."""
    stand_in_for_videos()
    processor, config = FAMILIES[family]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        head = model.get_output_embeddings()
        head.weight[: len(processor.tokenizer) - len(PRINTABLE)] = 0.0  # special tokens have logit 0
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
    return model, processor


def write_checkpoint(folder: Path, family: str) -> Path:
    """Writes the checkpoint of a family; returns its folder."""
    model, processor = tiny_vision_model(family)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
