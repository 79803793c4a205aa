"""Converts LoHa, LoKr and LoCon to LoRA exactly: all are low-rank products in another notation. Pure functions.

LoHa   ΔW = (A1 B1) ∘ (A2 B2)   row by row the products of all pairs: rank r1 r2
LoKr   ΔW = C ⊗ D               (X Y) ⊗ (U V) = (X ⊗ U)(Y ⊗ V), where a whole matrix W is I W or W I, whichever is
narrower
Tucker: a core T between the halves, of the size of a convolution's kernel: A (T B) is a product of two again

So they use diffusers' own conversion of names and peft's own layers, can be combined with LoRAs and with each other,
and are switched like them. diffusers 0.42 itself loads LoKr for Flux 2 and Z-Image only, no LoHa, and no core.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import torch

State: TypeAlias = dict[str, torch.Tensor]
PART = re.compile(r"(.+?)\.((?:hada|lokr)_(?:w[12](?:_[ab])?|t[12])|lora_mid\.weight)$")
HALVES = ("lora_up.weight", "lora_down.weight")  # of a LoCon
# Stability's names for SDXL's convolutions; its other modules are linear under these names.
SGM_CONVOLUTION = re.compile(r"(in_layers_2|out_layers_3|_op|_conv)$")
SGM_POINTWISE = re.compile(r"skip_connection$")


class NotConvertible(Exception):
    """The message names the part of the file that cannot be converted."""


def as_lora(state: Mapping[str, torch.Tensor], modules: Mapping[str, Any]) -> State:
    """Return `state` with each LoHa, LoKr and LoCon module as a LoRA in kohya's names. LoRA modules stay as they are.

    modules: the pipeline's, by the names that files give them. Raises `NotConvertible`.
    """
    by_module: dict[str, State] = {}
    rest: State = {}
    for key, tensor in state.items():
        match = PART.fullmatch(key)
        if match:
            by_module.setdefault(match[1], {})[match[2]] = tensor
        else:
            rest[key] = tensor
    for name, parts in by_module.items():
        alpha, scalar = rest.pop(f"{name}.alpha", None), rest.pop(f"{name}.scalar", None)
        parts |= {half: rest.pop(f"{name}.{half}") for half in HALVES if f"{name}.{half}" in rest}
        try:
            up, down, divisor = _product(parts)
        except KeyError as error:
            raise NotConvertible(f"{name} has no {error.args[0]}") from error
        except RuntimeError as error:  # of torch, about sizes
            raise NotConvertible(f"the shapes of {', '.join(parts)} of {name} do not belong together") from error
        rank = down.shape[0]
        scale = 1.0 if divisor is None or alpha is None else float(alpha) / divisor
        side = _kernel(name, down.shape[1], modules)
        if side is not None:
            up, down = up[:, :, None, None], down.reshape(rank, -1, side, side)
        # diffusers' conversions know kohya's names with kohya's halves, and dotted names with those of peft.
        halves = HALVES if "." not in name else ("lora_B.weight", "lora_A.weight")
        down = down * (scale * (1.0 if scalar is None else float(scalar)))
        rest |= {f"{name}.{half}": part.contiguous() for half, part in zip(halves, (up, down), strict=True)}
    return rest


def _product(parts: State) -> tuple[torch.Tensor, torch.Tensor, int | None]:
    """(up, down, divisor of alpha)"""
    if any(part.startswith("hada") for part in parts):
        return _loha(parts)
    if any(part.startswith("lokr") for part in parts):
        return _lokr(parts)
    up, down = (parts[half].float().flatten(1) for half in HALVES)
    core = parts["lora_mid.weight"].float()
    return up, _through(core, down), core.shape[0]


def _through(core: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """(r, r, *kernel) and (r, inputs) → (r, inputs times the kernel's elements)"""
    return torch.einsum("ijk,jn->ink", core.flatten(2), down).flatten(1).contiguous()


def _loha(parts: State) -> tuple[torch.Tensor, torch.Tensor, int | None]:
    (a1, b1), (a2, b2) = _pair(parts, "hada_w1", "hada_t1"), _pair(parts, "hada_w2", "hada_t2")
    if a1.shape[1] != b1.shape[0] or a2.shape[1] != b2.shape[0]:
        raise RuntimeError("ranks differ")
    up = torch.einsum("oi,oj->oij", a1, a2).flatten(1)
    down = torch.einsum("ix,jx->ijx", b1, b2).flatten(0, 1)
    return up, down, b1.shape[0]


def _pair(parts: State, name: str, core: str) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = parts[f"{name}_a"].float(), parts[f"{name}_b"].float().flatten(1)
    if core not in parts:
        return a, b
    # With a core, LyCORIS stores this factor with its rank first.
    return a.T.contiguous(), _through(parts[core].float(), b)


def _lokr(parts: State) -> tuple[torch.Tensor, torch.Tensor, int | None]:
    """LyCORIS ignores alpha when no factor has low rank; the divisor is None then."""
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
        a, b = _pair(parts, name, name.replace("_w", "_t"))
        if a.shape[1] != b.shape[0]:
            raise RuntimeError("ranks differ")
        yield a, b


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
