"""Replaces the large linear layers of a model by ones that compute in eight bits. Device thread only.

Every replaced layer is compared with the original on random inputs first, on the device that it will run on. A layer
that differs too much stays as it is: its weights have outliers that eight bits cannot hold beside the others.
"""

from __future__ import annotations

import copy
import statistics

import torch
from torch import nn

from models.checkpoint.quantized_bytes import runs_in_eight_bits
from models.errors import BadModel
from models.spec import ModelSpec
from pipelines.device import supports_fp8
from pipelines.quantized.eight_bit_linear import EightBitLinear, Kind

TRIAL_ROWS = 64
# Relative L2 distance of a layer's output on normal inputs: rounding makes 0.037 in fp8 and 0.015 in int8.
LARGEST_DISTANCE = 0.1


def eight_bit_kind(spec: ModelSpec) -> Kind | None:
    match spec.load.quantization:
        case "fp8" | "int8" as kind:
            return kind
        case _:
            return None


def use_eight_bits(name: str, module: nn.Module, kind: Kind, device: str, *, stays_on_host: bool = False) -> list[str]:
    """Replaces layers in place; returns a sentence about them. Raises `BadModel` where no layer can be replaced.

    name: of the component, for the sentence. device: on which the layers are quantized and compared, and where they
    stay unless `stays_on_host`.
    """
    if kind == "fp8" and not supports_fp8(device):
        raise BadModel("load.quantization: fp8 needs a GPU of compute capability 8.9 (Ada, Hopper) or newer; try int8")
    linears = [(layer, part) for layer, part in module.named_modules() if isinstance(part, nn.Linear)]
    distances: list[float] = []
    for layer, linear in linears:
        if type(linear) is not nn.Linear or not runs_in_eight_bits(type(module).__name__, layer, linear.weight.shape):
            continue
        replacement, distance = _quantized(linear, kind, device)
        if distance <= LARGEST_DISTANCE:
            distances.append(distance)
            module.set_submodule(layer, replacement.to("cpu") if stays_on_host else replacement)
    if not distances:
        raise BadModel(f"load.quantization: {name} has no linear layer that could compute in {kind}")
    typical, worst = statistics.median(distances), max(distances)
    sentence = (
        f"{len(distances)} of the {len(linears)} linear layers of {name} compute in {kind}. On normal inputs the "
        f"output of one differs by {typical:.1%} from what it is in {_dtype_name(module)}, of the worst by {worst:.1%}."
    )
    return [sentence]


def _quantized(linear: nn.Linear, kind: Kind, device: str) -> tuple[EightBitLinear, float]:
    """Returns the layer in eight bits on `device`, and the distance of its output from the original's."""
    original = copy.copy(linear)  # its weight visits the device; `linear` keeps its own where it is
    original._parameters = {
        name: None if tensor is None else nn.Parameter(tensor.detach().to(device), requires_grad=False)
        for name, tensor in linear._parameters.items()
    }
    replacement = EightBitLinear(original, kind, device).train(linear.training)
    noise = torch.randn(TRIAL_ROWS, linear.in_features, generator=torch.Generator().manual_seed(0))
    inputs = noise.to(device=device, dtype=linear.weight.dtype)
    with torch.no_grad():
        expected = _without_bias(original, inputs)
        difference = _without_bias(replacement, inputs) - expected
    distance = float(difference.norm() / expected.norm())
    return replacement, distance if distance == distance else torch.inf  # not a number is no small distance


def _without_bias(layer: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
    """The output without the bias, which is not quantized and could hide the rest."""
    output: torch.Tensor = layer(inputs).float()
    return output if layer.bias is None else output - layer.bias.float()


def _dtype_name(module: nn.Module) -> str:
    """The dtype of what was not quantized."""
    dtype = next(tensor.dtype for tensor in module.parameters() if tensor.is_floating_point())
    return str(dtype).removeprefix("torch.")
