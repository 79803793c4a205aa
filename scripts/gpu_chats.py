"""Language models at real size with random weights, and a small checkpoint that the server can load."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from tests.support.lanes.tiny_chat import PRINTABLE, tiny_tokenizer

TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def llama(
    *, width: int, feed_forward: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool
) -> LlamaForCausalLM:
    """A Llama that generates only tokens that the tiny tokenizer can decode, and never an end of text."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width // heads,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
        tie_word_embeddings=tied,
        **TOKENS,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[: TOKENS["eos_token_id"] + 1] = 0.0
        model.lm_head.weight[3 + len(PRINTABLE) :] = 0.0
    model.generation_config = GenerationConfig(**TOKENS)
    return model


def llama_3_2_1b() -> LlamaForCausalLM:
    return llama(width=2048, feed_forward=8192, layers=16, heads=32, kv_heads=8, vocabulary=128_256, tied=True)


def llama_3_1_8b() -> LlamaForCausalLM:
    return llama(width=4096, feed_forward=14_336, layers=32, heads=32, kv_heads=8, vocabulary=128_256, tied=False)


def smollm2_135m() -> LlamaForCausalLM:
    return llama(width=576, feed_forward=1536, layers=30, heads=9, kv_heads=3, vocabulary=49_152, tied=True)


@torch.no_grad()
def saying_known_tokens(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model with greedy replies that `tiny_tokenizer` can write: all other tokens have logit 0."""
    last = model.get_output_embeddings().weight
    last[: tiny_tokenizer().eos_token_id + 1] = 0.0  # its special tokens come first
    last[len(tiny_tokenizer()) :] = 0.0
    return model


def save_smollm2(folder: Path, dtype: torch.dtype) -> None:
    """Saves a checkpoint of SmolLM2-135M's shape with random weights and a tokenizer of single characters."""
    torch.manual_seed(0)
    saying_known_tokens(smollm2_135m()).to(dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
