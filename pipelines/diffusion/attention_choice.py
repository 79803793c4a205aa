"""Chooses the attention kernel of a transformer by measurement, at the shape that the model is mostly used at.

Device thread only. torch has several kernels for the same attention, and which is fastest depends on the card, on torch
and on the shape. The measurement takes about a tenth of a second of a load, so it is remembered for this process alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pipelines import device as devices
from pipelines.batching.merging import difference
from pipelines.batching.proof import TOLERANCE
from pipelines.timing import WORTH, shortest_seconds

NATIVE = "native"  # torch's own order of its kernels
FLASH_3 = "_flash_3"  # of the package flash_attn_interface
_ALL = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)
FIRST = {  # backend of diffusers → the kernel that torch is to try first
    "_native_cudnn": SDPBackend.CUDNN_ATTENTION,
    "_native_flash": SDPBackend.FLASH_ATTENTION,
    "_native_efficient": SDPBackend.EFFICIENT_ATTENTION,
}
MOST_TOKENS = 8192  # of a measurement: the order of the kernels does not change beyond, and a clip has ten times more

Attend = Callable[..., torch.Tensor]  # (query, key, value), each (batch, tokens, heads, values) → the same shape


@dataclass(frozen=True, slots=True)
class Shape:
    heads: int
    head_dim: int
    tokens: int

    @property
    def rounded(self) -> Shape:
        """With the next power of two of tokens: shapes that are so close have the same fastest kernel."""
        return Shape(self.heads, self.head_dim, min(MOST_TOKENS, 1 << max(0, self.tokens - 1).bit_length()))


# A module global, because the choice holds for every model of the process; written by whichever device thread loads.
_chosen: dict[tuple[str, torch.dtype, Shape], str] = {}


def choose_attention(denoiser: Any, tokens: int, dtype: torch.dtype, device: str) -> str | None:
    """Returns the backend of diffusers that is fastest for this transformer; None for one that has no choice.

    tokens: that a picture or clip of the usual size has in the denoiser, text included.
    """
    shape = attention_shape(denoiser, tokens)
    if shape is None or dtype not in (torch.bfloat16, torch.float16):
        return None
    key = devices.name(device), dtype, shape.rounded
    if key not in _chosen:
        seconds = measure(shape.rounded, dtype, device)
        fastest = min(seconds, key=lambda name: seconds[name])
        _chosen[key] = fastest if seconds[fastest] <= WORTH * seconds[NATIVE] else NATIVE
    return _chosen[key]


def attention_shape(denoiser: Any, tokens: int) -> Shape | None:
    """Returns the shape of its attention; None when diffusers cannot set the backend of this model."""
    for module in denoiser.modules():
        heads, to_q = getattr(module, "heads", None), getattr(module, "to_q", None)
        selectable = hasattr(getattr(module, "processor", None), "_attention_backend")
        if selectable and isinstance(heads, int) and isinstance(to_q, torch.nn.Linear):
            return Shape(heads, to_q.out_features // heads, tokens)
    return None


def measure(shape: Shape, dtype: torch.dtype, device: str) -> dict[str, float]:
    """Returns the seconds of each backend that agrees with torch's own choice, which is always among them."""
    noise = torch.Generator(device).manual_seed(0)
    sizes = 1, shape.tokens, shape.heads, shape.head_dim
    query, key, value = (torch.randn(sizes, generator=noise, device=device, dtype=dtype) for _ in range(3))
    expected = _native(query, key, value)
    seconds = {NATIVE: shortest_seconds(functools.partial(_native, query, key, value), device)}
    for name, attend in candidates().items():
        try:
            if difference(attend(query, key, value), expected) <= TOLERANCE[dtype]:
                seconds[name] = shortest_seconds(functools.partial(attend, query, key, value), device)
        except Exception as error:  # a kernel that does not take this card, dtype or shape
            if devices.is_fatal(error):
                raise
    return seconds


def candidates() -> dict[str, Attend]:
    """Returns the backends that this machine has, besides torch's own choice."""
    found: dict[str, Attend] = {name: with_kernel_first(kernel) for name, kernel in FIRST.items()}
    if find_spec("flash_attn_interface") is not None:
        found[FLASH_3] = _flash_3
    return found


def register(name: str) -> None:
    """Lets the backend of this name in diffusers pass on what its kernel does not take, for example a mask.

    diffusers' own functions fail there, and whether a model passes a mask may depend on the prompt.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    attend = candidates().get(name)
    backend = AttentionBackendName(name)
    if attend is not None and not getattr(Registry._backends[backend], "passes_on", False):
        attend.passes_on = True  # type: ignore[attr-defined]  # marks the function as ours
        Registry.register(backend)(attend)


def register_backends_of(module: torch.nn.Module) -> None:
    """As `register`, for every backend that is set in the module: in another process, which knows of no choice."""
    for part in module.modules():
        backend = getattr(getattr(part, "processor", None), "_attention_backend", None)
        if backend is not None:
            register(getattr(backend, "value", backend))


def with_kernel_first(kernel: SDPBackend) -> Attend:
    order = [kernel, *(other for other in _ALL if other is not kernel)]

    @functools.wraps(_native)  # diffusers looks at the signature
    def attend(*args: Any, **kwargs: Any) -> torch.Tensor:
        with sdpa_kernel(order, set_priority=True):
            return _native(*args, **kwargs)

    return attend


def _flash_3(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if attn_mask is not None or dropout_p:
        return _native(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    from flash_attn_interface import flash_attn_func

    output = flash_attn_func(query, key, value, softmax_scale=scale, causal=is_causal)
    attended: torch.Tensor = output[0] if isinstance(output, tuple) else output  # older versions also return sums
    return attended


def _native(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """diffusers puts tokens before heads, torch heads before tokens. The kernels take views, so nothing is copied."""
    output = scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=attn_mask,
        dropout_p=dropout_p,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
    )
    return output.transpose(1, 2)
