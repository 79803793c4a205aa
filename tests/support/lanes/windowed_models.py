"""Tiny random models of the families whose layers do not all attend plainly to the whole text."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

from tests.support.lanes.tiny_chat import PRINTABLE

WINDOW = 20  # tokens: shorter than a page, and shorter than the prompts of tests
SLIDING, FULL = "sliding_attention", "full_attention"

LIMIT = 70  # tokens of a short text
LONG_ROPE: dict[str, Any] = {
    "original_max_position_embeddings": LIMIT,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": LIMIT,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
    },
}

# family → (class of its config, values of it)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma 2": (
        "Gemma2Config",
        {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 8},
    ),
    "gemma 3": ("Gemma3TextConfig", {"layer_types": [SLIDING, SLIDING, FULL]}),
    "gpt-oss": (
        "GptOssConfig",
        {"layer_types": [SLIDING, FULL, SLIDING], "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "mistral": ("MistralConfig", {}),
    "qwen 2": ("Qwen2Config", {"use_sliding_window": True, "max_window_layers": 2}),
    "olmo 3": ("Olmo3Config", {"layer_types": [SLIDING, SLIDING, FULL]}),
    "cohere 2": ("Cohere2Config", {"layer_types": [SLIDING, FULL, SLIDING]}),
    "smollm 3": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1], "sliding_window": None}),
    "phi 3": ("Phi3Config", {}),
    "phi 3 with longrope": ("Phi3Config", {"sliding_window": None, **LONG_ROPE}),
}


def family_model(family: str, **sizes: Any) -> Any:
    """In float32, with the vocabulary of `tiny_chat`. sizes: values of its config."""
    name, values = FAMILIES[family]
    usual: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "sliding_window": WINDOW,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = getattr(transformers, name)(vocab_size=len(PRINTABLE) + 3, **(usual | values | sizes))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for key, weight in model.named_parameters():
            if key.endswith("sinks"):
                weight.normal_()
        model.lm_head.weight[:3] = 0.0  # no greedy reply ends before its last token
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
    return model
