"""A language model whose greedy reply is always the same text: each token leads to the next, whatever came before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM


def fixed_reply_model(tokenizer: Any, reply: Sequence[str], *, context_tokens: int = 1024) -> Any:
    """A Llama without attention, whose embeddings are unit vectors: its last matrix maps each token to the next.

    reply: texts of single tokens, no two alike. The first follows the last token of the prompt.
    """
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True)["input_ids"]
    chain = [prompt[-1], *(_token(tokenizer, text) for text in reply)]
    assert len(set(chain)) == len(chain), "each token leads to one other"
    size = -(-len(tokenizer) // 16) * 16
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1.0)
        for layer in model.model.layers:
            layer.input_layernorm.weight.fill_(1.0)
            layer.post_attention_layernorm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        # A model that finds all tokens equally likely is taken for a damaged one.
        model.lm_head.weight.copy_(torch.linspace(0.0, 0.1, size)[:, None].expand(size, size))
        for token, following in itertools.pairwise(chain):
            model.lm_head.weight[following, token] = 10.0
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def save_fixed_reply(folder: Path, tokenizer: Any, reply: Sequence[str], **options: Any) -> None:
    fixed_reply_model(tokenizer, reply, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _token(tokenizer: Any, text: str) -> int:
    token = tokenizer.convert_tokens_to_ids(text)
    assert isinstance(token, int), text
    assert token != tokenizer.unk_token_id, text
    return token
