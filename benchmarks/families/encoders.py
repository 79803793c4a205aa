"""Text encoders, each with its tokenizer."""

from __future__ import annotations

from typing import Any

import transformers

from benchmarks.families import parts
from benchmarks.families.building import Encoder


def clip(*args: Any, **sizes: Any) -> Encoder:
    return parts.clip_text(*args, **sizes), parts.clip_tokenizer()


def t5(*args: Any, **sizes: Any) -> Encoder:
    return parts.t5_text(*args, **sizes), parts.t5_tokenizer()


def byt5() -> Encoder:
    return parts.t5_text(vocab_size=400), transformers.ByT5Tokenizer()


def umt5() -> Encoder:
    return parts.t5_text(cls=transformers.UMT5EncoderModel), parts.t5_tokenizer()


def gemma2(dim: int = 16) -> Encoder:
    return parts.gemma2_text(dim), parts.gemma_tokenizer()


def llama(model: type = transformers.LlamaModel) -> Encoder:
    return parts.small_decoder(transformers.LlamaConfig, model), parts.llama_tokenizer()


def qwen3(model: type = transformers.Qwen3Model) -> Encoder:
    return parts.qwen3_text(model), parts.qwen_tokenizer()


def qwen_vl(dim: int = 16) -> Encoder:
    return parts.qwen_vl_text(dim), parts.qwen_tokenizer()


def qwen3_vl(model: type = transformers.Qwen3VLModel, layers: int = 2) -> Encoder:
    return parts.qwen_3_vl(model, layers), parts.qwen_tokenizer()
