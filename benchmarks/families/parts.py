"""Tokenizers of single characters, text encoders of a few thousand weights, and processors."""

from __future__ import annotations

import string
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from sentencepiece import sentencepiece_model_pb2
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
    T5EncoderModel,
    T5Tokenizer,
)

CLIP_TOKENS = 77
TEXT_DIM = 32
LETTERS = string.ascii_lowercase + string.digits + ",."
BYTES = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]  # byte-level BPE writes space and newline as Ġ and Ċ
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 160  # of every language model here: enough for each tokenizer

# Sizes of a language model and of a vision tower, in the words of their configs.
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


# Tokenizers


def numbered(*pieces: str) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(pieces)}


def clip_tokenizer() -> CLIPTokenizer:
    vocabulary = numbered(*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>")
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CLIP_TOKENS)


def t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in LETTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=64)


QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
QWEN_TOKENS += ["<|video_pad|>"]
QWEN_VISION_TOKENS = {
    name: QWEN_TOKENS.index(token)
    for name, token in {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }.items()
}


def qwen_tokenizer() -> Any:
    options = {"model_max_length": 1024, "additional_special_tokens": QWEN_TOKENS}
    tokenizer = Qwen2Tokenizer(vocab=numbered(*QWEN_TOKENS, *BYTES), merges=[], **options)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def qwen_processor(cls: type) -> Any:
    """Returns the processor of a Qwen with vision. Its video processor needs torchvision."""
    qwen_3 = cls is transformers.Qwen3VLProcessor
    videos = transformers.Qwen3VLVideoProcessor() if qwen_3 else transformers.Qwen2VLVideoProcessor()
    pictures = transformers.Qwen2VLImageProcessor(
        patch_size=16 if qwen_3 else 14, size={"shortest_edge": 1024, "longest_edge": 128 * 128}
    )
    return cls(pictures, qwen_tokenizer(), videos, chat_template=CHAT_TEMPLATE)


def glm_image_processor() -> Any:
    named = {"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"}
    vocabulary = numbered("<|endoftext|>", "<start>", *named.values(), *BYTES)
    options = {"bos_token": "<start>", "extra_special_tokens": named, "model_max_length": 1024}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], **options)
    template = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image|>")
    return transformers.GlmImageProcessor(
        transformers.GlmImageImageProcessor(patch_size=16, temporal_patch_size=1, merge_size=1),
        tokenizer,
        chat_template=template,
    )


def pixtral_processor() -> Any:
    """Needs torchvision."""
    tokenizer = llama_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]})
    return transformers.PixtralProcessor(transformers.PixtralImageProcessor(), tokenizer, chat_template=CHAT_TEMPLATE)


def gemma_tokenizer() -> Any:
    vocabulary = numbered("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *BYTES[:-2])
    return GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=64)


def llama_tokenizer() -> Any:
    vocabulary = numbered("<unk>", "<s>", "</s>", "▁", *BYTES[:-2])
    return LlamaTokenizer(vocab=vocabulary, merges=[], pad_token="</s>", model_max_length=128)  # noqa: S106


def writing_tokenizer() -> Any:
    """Returns the tokenizer of a model that rewrites the prompt. Its short limit ends the text after a few words."""
    tokenizer = llama_tokenizer()
    tokenizer.model_max_length = 8
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def bert_tokenizer() -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = numbered(*special, *LETTERS, *("##" + letter for letter in LETTERS))
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=77)


def chatglm_tokenizer() -> Any:
    """This tokenizer reads a SentencePiece model from a file, which is written here, and copies it when it is saved."""
    model = sentencepiece_model_pb2.ModelProto()
    model.pieces.add(piece="<unk>", score=0.0, type=model.SentencePiece.UNKNOWN)
    for piece in ("<s>", "</s>"):
        model.pieces.add(piece=piece, score=0.0, type=model.SentencePiece.CONTROL)
    for piece in ("▁", *LETTERS):
        model.pieces.add(piece=piece, score=-3.0)
    file = Path(tempfile.mkdtemp()) / "tokenizer.model"
    file.write_bytes(model.SerializeToString())
    return ChatGLMTokenizer(str(file))


# Image encoders


def clip_vision(cls: type = transformers.CLIPVisionModelWithProjection, **sizes: Any) -> Any:
    usual = {
        "hidden_size": TEXT_DIM,
        "projection_dim": TEXT_DIM,
        "image_size": 28,
        "patch_size": 14,
        "intermediate_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }
    return cls(transformers.CLIPVisionConfig(**{**usual, **sizes}))


def clip_image_processor() -> Any:
    return transformers.CLIPImageProcessor(crop_size=28, size=28)


# Text encoders


def clip_text(
    cls: type = CLIPTextModel,
    dim: int = TEXT_DIM,
    positions: int = CLIP_TOKENS,
    layers: int = 3,
    heads: int = 4,
    intermediate_size: int = 64,
) -> Any:
    end = clip_tokenizer().eos_token_id
    config = CLIPTextConfig(
        vocab_size=end + 1,
        hidden_size=dim,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=dim,
        max_position_embeddings=positions,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    return cls(config)


def t5_text(dim: int = TEXT_DIM, vocab_size: int = 64, layers: int = 2, cls: type = T5EncoderModel) -> Any:
    sizes = {"vocab_size": vocab_size, "d_model": dim, "d_kv": 8, "d_ff": 64, "num_layers": layers, "num_heads": 4}
    return cls(cls.config_class(**sizes, is_encoder_decoder=False))


def chatglm_text() -> Any:
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=64,
        hidden_size=TEXT_DIM,
        ffn_hidden_size=64,
        kv_channels=8,
        num_attention_heads=4,
        original_rope=True,
    )
    model = ChatGLMModel(config)
    for name, parameter in model.named_parameters():  # the constructor leaves them uninitialized
        torch.nn.init.ones_(parameter) if "norm" in name else torch.nn.init.normal_(parameter, 0, 0.1)
    return model


def bert_text() -> Any:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    return transformers.BertModel(config)


def small_decoder(config: type, model: type, **sizes: Any) -> Any:
    """Builds a language model with these sizes, by default two layers deep and 16 wide."""
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return model(config(**{**DECODER, "intermediate_size": 32, "max_position_embeddings": 1024, **tokens, **sizes}))


def qwen3_text(model: type, **sizes: Any) -> Any:
    return small_decoder(Qwen3Config, model, head_dim=8, **sizes)


def gemma2_text(dim: int = 16) -> Any:
    sizes = {"hidden_size": dim, "head_dim": 8, "attn_implementation": "eager"}
    return small_decoder(transformers.Gemma2Config, transformers.Gemma2Model, **sizes)


def qwen_vision(dim: int) -> dict[str, int]:
    return {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": dim}


def qwen_vl_config(dim: int) -> Qwen2_5_VLConfig:
    rope = {"mrope_section": [dim // 16, dim // 16, dim // 8], "rope_type": "default", "type": "default"}
    return Qwen2_5_VLConfig(
        text_config={**DECODER, "hidden_size": dim, "intermediate_size": dim, "rope_scaling": rope},
        vision_config=qwen_vision(dim),
        **QWEN_VISION_TOKENS,
    )


def mistral_3(model: type) -> Any:
    return model(transformers.Mistral3Config(text_config={**DECODER, "head_dim": 8}, vision_config=VISION))


def gemma_3(model: type) -> Any:
    text, vision = {**DECODER, "head_dim": 8}, {**VISION, "image_size": 28}
    return model(transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4))


def qwen_3_vl(model: type, layers: int = 2) -> Any:
    text = {**DECODER, "head_dim": 8, "num_hidden_layers": layers}
    return model(transformers.Qwen3VLConfig(text_config=text, vision_config=qwen_vision(16), **QWEN_VISION_TOKENS))


def qwen_vl_text(dim: int = 16) -> Any:
    return Qwen2_5_VLForConditionalGeneration(qwen_vl_config(dim))
