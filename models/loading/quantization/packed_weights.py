"""Packs the weights of a language model that runs on a CPU. Device thread only."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from models.checkpoint.quantized_bytes import is_packed
from models.errors import BadModel
from pipelines.quantized.packed_linear import PackedLinear

TRIAL_ROWS = 4
# Relative L2 distance of a layer's output on normal inputs. Rounding makes 0.003 with four bits and 0.01 with eight.
LARGEST_DISTANCE = 0.05


def pack_weights(name: str, model: Any) -> list[str]:
    """Replaces the large linear layers of a model on the CPU in place; returns a sentence about them.

    A layer whose output differs too much stays as it is. Raises `BadModel` where no layer can be packed.
    """
    linears = [(layer, part) for layer, part in model.named_modules() if type(part) is nn.Linear]
    bits: Counter[int] = Counter()
    for layer, linear in linears:
        if not is_packed(layer, linear.weight.shape):
            continue
        packed = PackedLinear(linear).train(linear.training)
        if _distance(packed, linear) <= LARGEST_DISTANCE:
            bits[packed.bits] += 1
            model.set_submodule(layer, packed)
    if not bits:
        raise BadModel(f"load.quantization: {name} has no linear layer whose weights could be packed")
    kinds = " and ".join(f"{bits[width]} in {width} bits" for width in sorted(bits))
    return [f"The weights of {bits.total()} of the {len(linears)} linear layers of {name} are packed: {kinds}."]


def _distance(packed: nn.Linear, linear: nn.Linear) -> float:
    noise = torch.randn(TRIAL_ROWS, linear.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inputs = noise.to(linear.weight.dtype)
        expected = linear(inputs).float()
        distance = float((packed(inputs).float() - expected).norm() / expected.norm())
    return distance if distance == distance else torch.inf  # not a number is no small distance
