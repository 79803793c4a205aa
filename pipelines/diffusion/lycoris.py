"""Converts LoHa and LoKr to LoRA exactly: both are low-rank products in another notation. Pure functions over tensors.

LoHa   ΔW = (A1 B1) ∘ (A2 B2)   row by row the products of all pairs: rank r1 r2
LoKr   ΔW = C ⊗ D               (X Y) ⊗ (U V) = (X ⊗ U)(Y ⊗ V), where a whole matrix W is I W or W I, whichever is
narrower

So they use diffusers' own conversion of names and peft's own layers, can be combined with LoRAs and with each other,
and are switched like them. diffusers 0.42 itself loads LoKr for Flux 2 and Z-Image only, and no LoHa.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch

State: TypeAlias = dict[str, torch.Tensor]
PART = re.compile(r"(.+?)\.((?:hada|lokr)_w[12](?:_[ab])?|alpha|scalar)$")
# Stability's names for SDXL's convolutions; its other modules are linear under these names.
SGM_CONVOLUTION = re.compile(r"(in_layers_2|out_layers_3|_op|_conv)$")
SGM_POINTWISE = re.compile(r"skip_connection$")


class NotConvertible(Exception):
    """The message names the part of the file that cannot be converted."""


def as_lora(state: State, modules: Mapping[str, Any]) -> State:
    """Return `state` with each LoHa and LoKr module as a LoRA under kohya's names. LoRA modules stay as they are.

    modules: the pipeline's, by kohya's names. Raises `NotConvertible`.
    """
    by_module: dict[str, State] = {}
    rest: State = {}
    for key, tensor in state.items():
        match = PART.fullmatch(key)
        if match and match[2] not in ("alpha", "scalar"):
            by_module.setdefault(match[1], {})[match[2]] = tensor
        else:
            rest[key] = tensor
    for name, parts in by_module.items():
        alpha, scalar = rest.pop(f"{name}.alpha", None), rest.pop(f"{name}.scalar", None)
        up, down, divisor = _loha(parts) if "hada_w1_a" in parts else _lokr(parts)
        rank = down.shape[0]
        scale = 1.0 if divisor is None or alpha is None else float(alpha) / divisor
        side = _kernel(name, down.shape[1], modules)
        if side is not None:
            up, down = up[:, :, None, None], down.reshape(rank, -1, side, side)
        rest[f"{name}.lora_up.weight"] = up.contiguous()
        rest[f"{name}.lora_down.weight"] = down.contiguous()
        rest[f"{name}.alpha"] = torch.tensor(rank * scale * (1.0 if scalar is None else float(scalar)))
    return rest


def _loha(parts: State) -> tuple[torch.Tensor, torch.Tensor, int | None]:
    """(up, down, divisor of alpha)"""
    a1, b1, a2, b2 = (parts[f"hada_{part}"].float() for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
    up = torch.einsum("oi,oj->oij", a1, a2).flatten(1)
    down = torch.einsum("ix,jx->ijx", b1, b2).flatten(0, 1)
    return up, down, b1.shape[0]


def _lokr(parts: State) -> tuple[torch.Tensor, torch.Tensor, int | None]:
    """(up, down, divisor of alpha). LyCORIS ignores alpha when no factor has low rank; the divisor is None then."""
    ranks = [parts[f"lokr_{w}_b"].shape[0] for w in ("w1", "w2") if f"lokr_{w}_b" in parts]
    products = [
        (torch.kron(x, u), torch.kron(y, v))
        for x, y in _factors(parts, "lokr_w1")
        for u, v in _factors(parts, "lokr_w2")
    ]
    up, down = min(products, key=lambda product: product[1].shape[0])
    return up, down, ranks[0] if ranks else None


def _factors(parts: State, name: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of matrices whose product is the factor `name`."""
    if name in parts:
        whole = parts[name].float().flatten(1)
        yield torch.eye(whole.shape[0]), whole
        yield whole, torch.eye(whole.shape[1])
    else:
        yield parts[f"{name}_a"].float(), parts[f"{name}_b"].float().flatten(1)


def _kernel(name: str, n_inputs: int, modules: Mapping[str, Any]) -> int | None:
    """Side of a convolution's kernel; None for a linear module. n_inputs: inputs times the kernel's elements."""
    if (module := modules.get(name)) is not None:
        weight = module.weight
        if weight.ndim not in (2, 4) or weight[0].numel() != n_inputs:
            raise NotConvertible(f"{name} has another shape")
        return int(weight.shape[-1]) if weight.ndim == 4 else None
    if SGM_CONVOLUTION.search(name):
        return 3
    return 1 if SGM_POINTWISE.search(name) else None
