"""A language model of a few thousand random weights, and a tokenizer with one token per character, made in code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipelines.chat.lane import ChatLane

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PRINTABLE = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]  # byte-level BPE writes space and newline so


def tiny_tokenizer(more: Sequence[str] = (), **options: Any) -> Any:
    """Tokens are printable ASCII characters: other bytes have no token and are left out of prompts.

    more: further special tokens. options: of the tokenizer's class.
    """
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>", *more]
    vocabulary = {token: index for index, token in enumerate([*special, *PRINTABLE])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=TEMPLATE,
        **options,
    )


def tiny_model(**sizes: Any) -> Any:
    """A random Llama in float32. Special tokens have logit 0, so that greedy replies run to their last token.

    sizes: values of its config.
    """
    usual: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "initializer_range": 0.3,  # the default makes flat logits, and every reply would be the same
    }
    config = LlamaConfig(
        vocab_size=len(PRINTABLE) + 3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **(usual | sizes),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[:3] = 0.0
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
    return model


def tiny_lane(model: Any | None = None, *, cache_bytes: int = 4 << 20, **options: Any) -> ChatLane:
    return ChatLane(model or tiny_model(), tiny_tokenizer(), cache_bytes=cache_bytes, **options)
