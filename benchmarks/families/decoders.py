"""Language models of transformers: name of the config class → sizes of a tiny model besides the usual ones."""

from __future__ import annotations

from typing import Any

import torch
import transformers

USUAL = {
    "vocab_size": 97 + 2,  # of the tokenizer in tests/support/lanes/tiny_chat.py
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,  # with the default the logits are so flat that every reply is the same
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

DECODERS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"head_dim": 8},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Gemma": {"head_dim": 8},
    "Gemma2": {"head_dim": 8},
    "Gemma3Text": {"head_dim": 8},
    "Phi": {},
    "Phi3": {},
    "Olmo": {},
    "Olmo2": {},
    "Olmo3": {},
    "Granite": {},
    "SmolLM3": {},
    "Mixtral": {"num_local_experts": 4},
    "Qwen2Moe": {**EXPERTS, "shared_expert_intermediate_size": 32},
    "Qwen3Moe": {**EXPERTS, "head_dim": 8},
    "Olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "GraniteMoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "GPTNeoX": {},
    "StableLm": {},
    "Cohere": {},
    "Cohere2": {"head_dim": 8},
    "Glm": {"head_dim": 8},
    "Glm4": {"head_dim": 8},
    "Falcon": {},
    "Starcoder2": {},
    "Nemotron": {},
    "Ernie4_5": {"head_dim": 8},
    "Exaone4": {"head_dim": 8},
    "HunYuanDenseV1": {"head_dim": 8},
    "SeedOss": {"head_dim": 8},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024},
    "Bloom": {"n_layer": 2, "n_head": 4},
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "Mamba": {"state_size": 8},
}


def decoder(name: str) -> Any:
    """Builds the model in float32 with the same weights each time. Special tokens are never the likeliest."""
    config = getattr(transformers, f"{name}Config")(**{**USUAL, **DECODERS[name]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim >= 2 and float(weight.std()) < 0.05:
                    weight.normal_(0, 0.3)
            head = model.get_output_embeddings().weight
            head[:3] = 0.0
    model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
    return model
