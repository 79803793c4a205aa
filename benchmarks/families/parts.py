"""What the families read prompts with: tokenizers of single characters, text encoders of a few thousand weights, processors."""

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


DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
EYES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


# Tokenizers


def clip_tokenizer() -> CLIPTokenizer:
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=CLIP_TOKENS)


def t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in LETTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=64)


def qwen_tokenizer(*more: str) -> Any:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *more]
    vocabulary = {token: index for index, token in enumerate([*special, *BYTES])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=1024, additional_special_tokens=special)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def qwen_processor(cls: type) -> Any:
    """Of a Qwen that sees; its part for clips needs torchvision."""
    tokenizer = qwen_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    clips = (
        transformers.Qwen3VLVideoProcessor
        if cls is transformers.Qwen3VLProcessor
        else transformers.Qwen2VLVideoProcessor
    )
    return cls(transformers.Qwen2VLImageProcessor(), tokenizer, clips(), chat_template=CHAT_TEMPLATE)


def glm_image_processor() -> Any:
    named = {"image_token": "<|image|>", "grid_bos_token": "<sop>", "grid_eos_token": "<eop>"}
    special = ["<|endoftext|>", "<start>", *named.values()]
    vocabulary = {token: index for index, token in enumerate([*special, *BYTES])}
    options = {"bos_token": "<start>", "extra_special_tokens": named, "model_max_length": 1024}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], **options)
    return transformers.GlmImageProcessor(transformers.GlmImageImageProcessor(), tokenizer, chat_template=CHAT_TEMPLATE)


def pixtral_processor() -> Any:
    """It needs torchvision, too."""
    tokenizer = llama_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]})
    return transformers.PixtralProcessor(transformers.PixtralImageProcessor(), tokenizer, chat_template=CHAT_TEMPLATE)


def gemma_tokenizer() -> Any:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *BYTES[:-2]]
    return GemmaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=64)


def llama_tokenizer() -> Any:
    pieces = ["<unk>", "<s>", "</s>", "▁", *BYTES[:-2]]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return LlamaTokenizer(vocab=vocabulary, merges=[], pad_token="</s>", model_max_length=128)  # noqa: S106 - a token, no password


def writing_tokenizer() -> Any:
    """Of a model that rewrites the prompt: it stops after few words."""
    tokenizer = llama_tokenizer()
    tokenizer.model_max_length = 8
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def bert_tokenizer() -> Any:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + letter for letter in LETTERS)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=77)


def chatglm_tokenizer() -> Any:
    """It opens a SentencePiece model, which is made here, and copies the file when it is saved."""
    model = sentencepiece_model_pb2.ModelProto()
    model.pieces.add(piece="<unk>", score=0.0, type=model.SentencePiece.UNKNOWN)
    for piece in ("<s>", "</s>"):
        model.pieces.add(piece=piece, score=0.0, type=model.SentencePiece.CONTROL)
    for piece in ("▁", *LETTERS):
        model.pieces.add(piece=piece, score=-3.0)
    file = Path(tempfile.mkdtemp()) / "tokenizer.model"
    file.write_bytes(model.SerializeToString())
    return ChatGLMTokenizer(str(file))


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
    for name, parameter in model.named_parameters():  # made of whatever lay in memory
        torch.nn.init.ones_(parameter) if "norm" in name else torch.nn.init.normal_(parameter, 0, 0.1)
    return model


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


def mistral_3(model: type) -> Any:
    return model(transformers.Mistral3Config(text_config=DECODER, vision_config=EYES))


def gemma_3(model: type) -> Any:
    eyes = {**EYES, "image_size": 28}
    return model(transformers.Gemma3Config(text_config=DECODER, vision_config=eyes, mm_tokens_per_image=4))


def qwen_3_vl(model: type, layers: int = 2) -> Any:
    text = {**DECODER, "num_hidden_layers": layers}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    return model(transformers.Qwen3VLConfig(text_config=text, vision_config=vision))


def qwen_vl_text(dim: int = 16) -> Any:
    return Qwen2_5_VLForConditionalGeneration(qwen_vl_config(dim))
