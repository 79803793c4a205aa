"""Computes the least device memory that a model, or a job on it, needs, before anything is loaded. No torch.

The event loop refuses jobs by it, the device thread books loads by it; each has instances of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.offload_size import offloaded_device_bytes
from models.spec import ModelSpec
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.embedding.queue import padded_width, shape_of_width
from pipelines.embedding_interface import EmbeddingRequest
from pipelines.interface import Request
from server.memory.activations import Peaks

CHAT_CACHE_BYTES = 512 << 20  # KV cache of a chat model on a small device: 11,000 tokens of SmolLM2 in float32
CHAT_CACHE_SHARE = 32  # one part in so many of a larger device: 36,000 tokens of an 8B model on 141 GB
MIN_CACHE_BYTES = 128 << 20  # KV cache where the weights leave no more: a few pages of an 8B model


def cache_bytes(weight_bytes: int, usable_bytes: int) -> int:
    """Returns the size of a chat model's KV cache: what the weights leave, but at most a quarter of the device.

    It is cut when another model needs the memory, so that a large device need not be kept free.
    """
    left = max(MIN_CACHE_BYTES, usable_bytes - weight_bytes)
    return min(max(CHAT_CACHE_BYTES, usable_bytes // CHAT_CACHE_SHARE), usable_bytes // 4, left)


class WeightPlacement:
    """Decides where a model's weights are held: all on the device, or in host memory by block offload."""

    def __init__(self, usable_bytes: int, *, auto_offload: bool, float_bytes: Callable[[ModelSpec], int]) -> None:
        """usable_bytes: of the device. float_bytes: the width of every float as the model is served.

        auto_offload: a model that is larger than the device is offloaded without `load.offload` in its entry.
        """
        self.usable_bytes = usable_bytes
        self._auto_offload = auto_offload
        self._float_bytes = float_bytes
        self._offloaded_bytes: dict[str, tuple[ModelSpec, int]] = {}  # by name; another spec means other files

    def offloads(self, spec: ModelSpec) -> bool:
        """Whether the model's weights stay in host memory and its blocks visit the device one after the other."""
        # A single file does not say which weights belong to which component.
        if not spec.is_diffusion or spec.path is None or not spec.path.is_dir():
            return False
        return spec.load.offload or (self._auto_offload and spec.weight_bytes > self.usable_bytes)

    def device_bytes(self, spec: ModelSpec) -> int:
        """Returns the bytes of weights that are on the device at once."""
        if not self.offloads(spec):
            return spec.weight_bytes
        known = self._offloaded_bytes.get(spec.name)
        if known is None or known[0] is not spec:
            assert spec.path is not None
            n_bytes = offloaded_device_bytes(spec.path, self._float_bytes(spec))
            known = self._offloaded_bytes[spec.name] = spec, n_bytes
        return min(spec.weight_bytes, known[1])


class Requirements:
    def __init__(self, peaks: Peaks, key_of: Callable[[ModelSpec], str], placement: WeightPlacement) -> None:
        """key_of: the key under which a model's peaks are kept. placement: that of the largest device."""
        self._peaks = peaks
        self._key_of = key_of
        self._placement = placement

    def of(self, spec: ModelSpec, requests: Sequence[Request] = ()) -> int:
        """Returns the bytes that the model needs on a device at least, whichever of `requests` it runs.

        A chat model needs its weights and its KV cache. Another model needs its weights, the largest set of adapters of
        a request, and the activations that such requests were measured to hold. An embedding runs one text at a time
        where more do not fit.
        """
        if spec.type == "chat":
            return spec.weight_bytes + cache_bytes(spec.weight_bytes, self._placement.usable_bytes)
        diffusion = [request for request in requests if isinstance(request, DiffusionRequest)]
        shapes = {(request.shape, request.units) for request in diffusion}
        shapes |= {_longest_text(request) for request in requests if isinstance(request, EmbeddingRequest)}
        key = self._key_of(spec) or spec.name
        extra = max((self._peaks.lower_bound(key, *shape) for shape in shapes), default=0)
        extra += max(map(_borrowed_bytes, diffusion), default=0)
        weights = self._placement.device_bytes(spec)
        # The measured peak of an offloaded model includes the blocks that visit the device.
        return max(weights, extra) if self._placement.offloads(spec) else weights + extra


def _borrowed_bytes(request: DiffusionRequest) -> int:
    return sum(lora.n_bytes for lora in request.loras) + sum(adapter.n_bytes for adapter in request.adapters)


def _longest_text(request: EmbeddingRequest) -> tuple[str, int]:
    """Returns the shape and the units of the request's longest text."""
    width = padded_width(max(len(text.tokens) for text in request.texts))
    return shape_of_width(width), width
