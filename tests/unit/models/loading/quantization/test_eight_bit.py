"""Which layers of a model run in eight bits, what is said about it, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from models.checkpoint.quantized_bytes import is_packed, runs_in_eight_bits
from models.checkpoint.resident_bytes import ServedAs, folder_bytes
from models.errors import BadModel
from models.loading.quantization.eight_bit import use_eight_bits
from models.loading.quantization.packed_weights import pack_weights
from pipelines.quantized.eight_bit_linear import EightBitLinear
from pipelines.quantized.packed_linear import PackedLinear


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = LlamaConfig(vocab_size=320, num_hidden_layers=2, tie_word_embeddings=True, **sizes)
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def held_bytes(module: nn.Module) -> int:
    tensors = (*module.parameters(), *(buffer for name, buffer in module.named_buffers() if "inv_freq" not in name))
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize(
    ("cls", "layer", "shape", "taken"),
    [
        ("FluxTransformer2DModel", "transformer_blocks.0.attn.to_q", (3072, 3072), True),
        ("FluxTransformer2DModel", "single_transformer_blocks.7.proj_out", (3072, 15360), True),
        ("FluxTransformer2DModel", "transformer_blocks.0.norm1.linear", (18432, 3072), False),
        ("FluxTransformer2DModel", "context_embedder", (3072, 4096), False),
        ("FluxTransformer2DModel", "proj_out", (64, 3072), False),
        ("QwenImageTransformer2DModel", "transformer_blocks.3.img_mod.1", (18432, 3072), False),
        ("ZImageTransformer2DModel", "layers.0.adaLN_modulation.0", (15360, 256), False),
        ("ZImageTransformer2DModel", "t_embedder.mlp.0", (1024, 256), False),
        ("WanTransformer3DModel", "blocks.0.ffn.net.0.proj", (8960, 1536), True),
        ("UNet2DConditionModel", "down_blocks.1.resnets.0.time_emb_proj", (640, 1280), False),
        ("UNet2DConditionModel", "mid_block.attentions.0.transformer_blocks.0.attn1.to_k", (1280, 1280), True),
        ("", "model.layers.0.mlp.gate_proj", (8192, 2048), True),
        ("", "model.layers.0.mlp.gate", (64, 2048), False),
        ("", "model.layers.0.mlp.experts.3.up_proj", (1024, 2048), False),
        ("", "lm_head", (128_256, 2048), False),
        ("", "model.layers.0.self_attn.k_proj", (192, 576), False),
        ("", "model.layers.0.self_attn.q_proj", (600, 576), False),
    ],
)
def test_large_layers_inside_the_blocks_are_taken(cls: str, layer: str, shape: tuple[int, int], taken: bool) -> None:
    assert runs_in_eight_bits(cls, layer, shape) is taken


def test_a_cpu_packs_the_head_and_smaller_layers_too() -> None:
    assert is_packed("lm_head", (49_152, 576))
    assert is_packed("model.layers.0.self_attn.k_proj", (192, 576))
    assert not is_packed("model.embed_tokens", (49_152, 576))


def test_the_layers_are_replaced_in_place_and_the_distance_is_told(model: Any) -> None:
    quantized = copy.deepcopy(model)

    (sentence,) = use_eight_bits("the language model", quantized, "int8", "cpu")

    replaced = [part for part in quantized.modules() if isinstance(part, EightBitLinear)]
    assert len(replaced) == 14
    assert sentence.startswith("14 of the 15 linear layers of the language model compute in int8. ")
    assert "% from what it is in float32" in sentence
    ids = torch.arange(3, 40)[None]
    expected = model(ids).logits
    assert float((quantized(ids).logits - expected).norm() / expected.norm()) < 0.04


def test_a_layer_that_would_differ_too_much_keeps_its_weights(model: Any) -> None:
    quantized = copy.deepcopy(model)
    quantized.model.layers[0].mlp.up_proj.weight.fill_(torch.nan)

    use_eight_bits("the language model", quantized, "int8", "cpu")

    assert type(quantized.model.layers[0].mlp.up_proj) is nn.Linear
    assert type(quantized.model.layers[1].mlp.up_proj) is EightBitLinear


def test_fp8_is_refused_on_a_device_that_cannot_multiply_it(model: Any) -> None:
    with pytest.raises(BadModel, match=r"fp8 needs a GPU of compute capability 8\.9"):
        use_eight_bits("the language model", copy.deepcopy(model), "fp8", "cpu")


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(BadModel, match="the transformer has no linear layer that could compute in int8"):
        use_eight_bits("the transformer", nn.Sequential(nn.Linear(8, 8)), "int8", "cpu")


@pytest.mark.parametrize("kind", ["int8", "cpu-int8"])
def test_the_bytes_are_known_before_the_load(model: Any, tmp_path: Path, kind: str) -> None:
    model.save_pretrained(tmp_path)
    quantized = copy.deepcopy(model)
    if kind == "int8":
        use_eight_bits("the language model", quantized, "int8", "cpu")
    else:
        pack_weights("the language model", quantized)

    estimate = folder_bytes(tmp_path, "model", "LlamaForCausalLM", ServedAs(4, quantization=kind))

    assert estimate == pytest.approx(held_bytes(quantized), rel=0.01)


def test_a_packed_model_keeps_its_embedding_and_answers_alike(model: Any) -> None:
    packed = copy.deepcopy(model)

    (sentence,) = pack_weights("the language model", packed)

    assert isinstance(packed.lm_head, PackedLinear)
    assert packed.model.embed_tokens.weight.dtype == torch.float32
    assert sentence == "The weights of 15 of the 15 linear layers of the language model are packed: 15 in 8 bits."
    ids = torch.arange(3, 40)[None]
    expected = model(ids).logits
    assert float((packed(ids).logits - expected).norm() / expected.norm()) < 0.03
