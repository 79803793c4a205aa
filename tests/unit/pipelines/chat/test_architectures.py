"""Models with config classes of their own: none has `max_position_embeddings`, some have no keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig

from benchmarks.conformance_chat import N_TOKENS, generated
from pipelines.chat.kv_size import has_attention, state_bytes, token_bytes
from pipelines.chat.lane import ChatLane
from pipelines.chat.proof import shares_forwards_correctly
from tests.support.lanes.chat_play import chat, ends, play, replies
from tests.support.lanes.tiny_chat import PRINTABLE, tiny_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

USUAL = {"vocab_size": len(PRINTABLE) + 3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
REMEMBERS = {"initializer_range": 0.6}  # with the default the state has little influence on the tokens
LATENT = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "q_lora_rank": None}
# As the classes name them, so that a checkpoint is what `save_pretrained` writes.
SIZES: dict[str, dict[str, Any]] = {
    "Mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    "Bloom": {"hidden_size": 32, "n_head": 4, "n_layer": 2},
    "GPT2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 512},
    "GPTNeo": {
        "hidden_size": 32,
        "num_heads": 4,
        "num_layers": 2,
        "attention_types": [[["global", "local"], 1]],
        "intermediate_size": 64,
        "max_position_embeddings": 512,
    },
    "DeepseekV3": {
        **LATENT,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "Mamba": {**REMEMBERS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "Mamba2": {
        **REMEMBERS,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "num_heads": 8,
        "head_dim": 8,
        "n_groups": 2,
    },
    "Rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 512},
    "RecurrentGemma": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 64,
        "lru_width": 32,
        "attention_window_size": 512,
    },
}


def config_of(name: str) -> PreTrainedConfig:
    return getattr(transformers, f"{name}Config")(**USUAL, **SIZES[name])


def saved_and_loaded(name: str, folder: Path) -> Any:
    config = config_of(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim >= 2 and float(weight.std()) < 0.05:
                    weight.normal_(0, 0.3)  # with the default the logits are so flat that every reply is the same
            model.get_output_embeddings().weight[:3] = 0.0  # special tokens are never the likeliest
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(params=SIZES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return saved_and_loaded(request.param, tmp_path)


def test_its_tokens_are_those_of_generate_alone_and_with_others(model: Any) -> None:
    shared = shares_forwards_correctly(model)
    lane = ChatLane(model, tiny_tokenizer(), cache_bytes=8 << 20, merging="on" if shared else "off")
    texts = ["Hello there!", "a", "Count to ten, slowly."]
    expected = [generated(model, tiny_tokenizer(), text) for text in texts]
    requests = [chat(str(i), text, max_tokens=N_TOKENS) for i, text in enumerate(texts)]

    alone = [replies(lane, [request])[request.id].text for request in requests]
    together = [end.text for _, end in sorted(replies(lane, requests).items())]

    assert len(set(expected)) == 3
    assert alone == expected
    assert together == expected


def test_its_sequences_take_no_more_memory_than_is_counted(model: Any) -> None:
    n_tokens = 64
    with torch.inference_mode():
        output = model(torch.tensor([[3 + i % 90 for i in range(n_tokens)]]), use_cache=True)
    past = [output.get(name) for name in ("past_key_values", "cache_params", "state")]
    taken = sum(bytes_in(each, set()) for each in past)
    counted = n_tokens * token_bytes(model) if has_attention(model.config) else state_bytes(model)
    assert taken <= counted
    if taken:
        assert counted <= 4 * taken


def bytes_in(value: Any, seen: set[int]) -> int:
    """Bytes of all tensors that can be reached from a value."""
    if id(value) in seen or isinstance(value, PreTrainedConfig):
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    parts = [*parts, *getattr(value, "__dict__", {}).values()]
    return sum(bytes_in(part, seen) for part in parts)


@pytest.mark.parametrize("name", ["Mpt", "Bloom"])
def test_the_length_of_a_chat_is_limited_by_the_config_or_else_by_the_cache(name: str, tmp_path: Path) -> None:
    lane = ChatLane(saved_and_loaded(name, tmp_path), tiny_tokenizer(), cache_bytes=1 << 20, merging="off")
    held = (1 << 20) // (2 * 2 * 32 * 4)  # keys and values of 32 numbers in two layers, in float32
    assert lane._max_lengths[False] == {"Mpt": 512, "Bloom": held}[name]
    assert ends(play(lane, [chat("a", "x" * 600, max_tokens=2)]))[0][1] == {"Mpt": "Failed", "Bloom": "Replied"}[name]
