"""Computes from a model's config how much memory a sequence takes: keys and values, or the state of recurrent layers.

Config classes of transformers have many names for the same number; where a class maps its own names (`n_head` of Bloom,
`n_heads` of MPT) to the usual ones, the usual ones are used.
"""

from __future__ import annotations

from typing import Any

PAGE_TOKENS = 32  # small pages waste little memory on a short chat
# Most tokens of a recurrent model's sequence, whose memory does not grow: no config says how long a text may be.
STATE_TOKENS = 1 << 15
STATE_ITEMSIZE = 4  # recurrent states are kept in float32
CONV_TOKENS = 4  # that a convolution before a recurrent layer looks back, where the config does not say


def has_attention(config: Any) -> bool:
    """Whether any layer attends to earlier tokens. config: of the language model (`get_text_config`)."""
    return getattr(config, "num_attention_heads", None) is not None


def token_bytes(model: Any) -> int:
    """Bytes of one token's keys and values in all layers. An upper bound: a sliding window or a state takes less."""
    config = model.config.get_text_config()
    return int(config.num_hidden_layers) * _numbers_per_token(config) * int(model.dtype.itemsize)


def state_bytes(model: Any) -> int:
    """Bytes of one sequence's states in all layers of a model without attention, such as Mamba or RWKV."""
    config = model.config.get_text_config()
    width = int(getattr(config, "intermediate_size", None) or 2 * config.hidden_size)
    width = max(width, int(getattr(config, "num_heads", 0) * getattr(config, "head_dim", 0)))
    state = int(getattr(config, "state_size", None) or getattr(config, "ssm_state_size", None) or 0)
    convolved = width + 2 * int(getattr(config, "n_groups", 0)) * state
    numbers = width * state + convolved * int(getattr(config, "conv_kernel", CONV_TOKENS))
    return int(config.num_hidden_layers) * numbers * STATE_ITEMSIZE


def _numbers_per_token(config: Any) -> int:
    """Keys and values of one token in one layer."""
    rank = getattr(config, "kv_lora_rank", None)
    if rank is not None:  # multi-head latent attention (DeepSeek): kept compressed, with the key of a sparse index
        return int(rank) + int(config.qk_rope_head_dim) + int(getattr(config, "index_head_dim", None) or 0)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(heads) * int(head_dim)
