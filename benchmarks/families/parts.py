"""What the families are put together from: tokenizers of single characters, text encoders and autoencoders of a few thousand weights."""

from __future__ import annotations

import string
from typing import Any

import diffusers
import transformers
from diffusers import AutoencoderKL
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    GemmaTokenizer,
    LlamaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

CLIP_TOKENS = 77
TEXT_DIM = 32
LETTERS = string.ascii_lowercase + string.digits + ",."
BYTES = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]  # byte-level BPE writes space and newline as Ġ and Ċ
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}"
    "{% else %}{{ m.content[0].text }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 160  # of every language model here: enough for each tokenizer


# Tokenizers


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CLIP_TOKENS)


def t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in LETTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=64)


def qwen_tokenizer() -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *BYTES])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=1024, additional_special_tokens=special)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def gemma_tokenizer() -> Any:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *BYTES[:-2]]
    return GemmaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=64)


def llama_tokenizer() -> Any:
    pieces = ["<unk>", "<s>", "</s>", "▁", *BYTES[:-2]]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return LlamaTokenizer(vocab=vocabulary, merges=[], pad_token="</s>", model_max_length=128)  # noqa: S106 - a token, no password


def bert_tokenizer() -> Any:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + letter for letter in LETTERS)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=77)


# Text encoders


def clip_text(cls: type = CLIPTextModel, dim: int = TEXT_DIM, positions: int = CLIP_TOKENS, layers: int = 3) -> Any:
    ends = clip_tokenizer().eos_token_id
    config = CLIPTextConfig(
        vocab_size=ends + 1,
        hidden_size=dim,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=dim,
        max_position_embeddings=positions,
        bos_token_id=ends - 1,
        eos_token_id=ends,
        pad_token_id=ends,
    )
    return cls(config)


def t5_text(dim: int = TEXT_DIM, vocab_size: int = 64, layers: int = 2) -> T5EncoderModel:
    sizes = {"vocab_size": vocab_size, "d_model": dim, "d_kv": 8, "d_ff": 64, "num_layers": layers, "num_heads": 4}
    return T5EncoderModel(T5Config(**sizes, is_encoder_decoder=False))


def umt5_text() -> UMT5EncoderModel:
    sizes = {"vocab_size": 64, "d_model": TEXT_DIM, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return UMT5EncoderModel(UMT5Config(**sizes, is_encoder_decoder=False))


def bert_text() -> Any:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    return transformers.BertModel(config)


def small_decoder(config: type, model: type, **sizes: Any) -> Any:
    """A decoder LLM, two layers deep, 16 wide unless told otherwise."""
    usual = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return model(config(**{**usual, **sizes}))


def qwen3_text(model: type, **sizes: Any) -> Any:
    return small_decoder(Qwen3Config, model, head_dim=8, **sizes)


def gemma2_text(dim: int = 16) -> Any:
    sizes = {"hidden_size": dim, "head_dim": 8, "attn_implementation": "eager"}
    return small_decoder(transformers.Gemma2Config, transformers.Gemma2Model, **sizes)


def qwen_vl_config(dim: int) -> Qwen2_5_VLConfig:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": dim,
        "intermediate_size": dim,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_scaling": {"mrope_section": [dim // 16, dim // 16, dim // 8], "rope_type": "default", "type": "default"},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": dim}
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=VOCABULARY - 3,
        vision_end_token_id=VOCABULARY - 2,
        vision_token_id=VOCABULARY - 1,
        image_token_id=VOCABULARY - 4,
        video_token_id=VOCABULARY - 5,
    )


def qwen_vl_text(dim: int = 16) -> Any:
    return Qwen2_5_VLForConditionalGeneration(qwen_vl_config(dim))


# Autoencoders


def small_vae(latent_channels: int = 4, stages: tuple[int, ...] = (8, 16), **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=stages,
        down_block_types=("DownEncoderBlock2D",) * len(stages),
        up_block_types=("UpDecoderBlock2D",) * len(stages),
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        **options,
    )


def flow_vae(latent_channels: int, **options: Any) -> AutoencoderKL:
    plain = {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.06, "scaling_factor": 1.5}
    return small_vae(latent_channels, **{**plain, **options})


def tiny_vae(stages: int = 3) -> Any:
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * stages,
        decoder_block_out_channels=(8,) * stages,
        num_encoder_blocks=(1,) * stages,
        num_decoder_blocks=(1,) * stages,
    )


def wan_vae(z_dim: int = 16, **options: Any) -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=z_dim,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1] * z_dim,
        latents_std=[1.1] * z_dim,
        **options,
    )


def qwen_image_vae() -> Any:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1] * 4,
        latents_std=[1.1] * 4,
    )


def deep_compression_vae() -> Any:
    blocks = ("ResBlock", "EfficientViTBlock")
    return diffusers.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=[1, 1],
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.4,
    )


def hunyuan_video_vae(latent_channels: int, stages: int = 4) -> Any:
    return diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=latent_channels,
        down_block_types=("HunyuanVideoDownBlock3D",) * stages,
        up_block_types=("HunyuanVideoUpBlock3D",) * stages,
        block_out_channels=(8,) * stages,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.5,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )


def movq() -> Any:
    return diffusers.VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
