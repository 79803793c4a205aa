"""Products of linear layers that read the same, on the card: apart and joined they are those of the layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.diffusion.joined_products import joined_linear, noting_weights_apart
from pipelines.diffusion.weight_joiner import WeightJoiner

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_products_apart_and_joined_are_those_of_the_layers(bias: bool) -> None:
    layers = [nn.Linear(256, n * 256, bias, device="cuda", dtype=torch.bfloat16) for n in (1, 1, 1, 4)]
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers if bias]
    hidden = torch.randn(2, 300, 256, device="cuda", dtype=torch.bfloat16)
    expected = torch.cat([layer(hidden) for layer in layers], -1)
    joiner = WeightJoiner()

    with noting_weights_apart() as apart:
        torch.testing.assert_close(joined_linear(hidden, weights, biases), expected, atol=0.02, rtol=0.02)
    assert joiner.join(apart)
    joiner.release()
    with noting_weights_apart() as apart:
        torch.testing.assert_close(joined_linear(hidden, weights, biases), expected, atol=0.02, rtol=0.02)

    assert not apart
    assert joiner.failure == ""
