"""Text encoders, each with the tokenizer that goes with it."""

from __future__ import annotations

from typing import Any

import transformers

from benchmarks.families import parts
from benchmarks.families.small import Reader


def clip(*args: Any, **sizes: Any) -> Reader:
    return parts.clip_text(*args, **sizes), parts.clip_tokenizer()


def t5(*args: Any, **sizes: Any) -> Reader:
    return parts.t5_text(*args, **sizes), parts.t5_tokenizer()


def byt5() -> Reader:
    return parts.t5_text(vocab_size=400), transformers.ByT5Tokenizer()


def umt5() -> Reader:
    return parts.umt5_text(), parts.t5_tokenizer()


def gemma2(dim: int = 16) -> Reader:
    return parts.gemma2_text(dim), parts.gemma_tokenizer()


def llama(model: type = transformers.LlamaModel) -> Reader:
    return parts.small_decoder(transformers.LlamaConfig, model), parts.llama_tokenizer()


def qwen3(model: type = transformers.Qwen3Model) -> Reader:
    return parts.qwen3_text(model), parts.qwen_tokenizer()


def qwen_vl(dim: int = 16) -> Reader:
    return parts.qwen_vl_text(dim), parts.qwen_tokenizer()


def qwen3_vl(model: type = transformers.Qwen3VLModel, layers: int = 2) -> Reader:
    return parts.qwen_3_vl(model, layers), parts.qwen_tokenizer()
