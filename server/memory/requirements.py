"""What a model, and a job on it, hold of a device at least: told before anything is loaded. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.offload_size import offloaded_device_bytes
from models.spec import ModelSpec
from pipelines.interface import DiffusionRequest, Request
from server.memory.activations import Peaks

CHAT_CACHE_BYTES = 512 << 20  # KV cache of a chat model: 11,000 tokens of SmolLM2 in float32
LEAST_CACHE_BYTES = 128 << 20  # where weights leave no more: a few pages of an 8B model


def cache_bytes(weight_bytes: int, usable_bytes: int) -> int:
    """Of a chat model's KV cache: what its weights leave, at most a quarter of the device."""
    beside = max(LEAST_CACHE_BYTES, usable_bytes - weight_bytes)
    return min(CHAT_CACHE_BYTES, usable_bytes // 4, beside)


class Weights:
    """How a model's weights are held: all on the device, or larger than that, in main memory with blocks that visit."""

    def __init__(self, usable_bytes: int, *, allowed: bool, float_bytes: Callable[[ModelSpec], int]) -> None:
        """usable_bytes: of the device. allowed: a model larger than it may be held so without having been told to. float_bytes: as served."""
        self.usable_bytes = usable_bytes
        self._allowed = allowed
        self._float_bytes = float_bytes
        self._visiting: dict[str, tuple[ModelSpec, int]] = {}  # by name; a new spec means new files

    def offloads(self, spec: ModelSpec) -> bool:
        if (
            spec.type == "chat" or spec.path is None or not spec.path.is_dir()
        ):  # of a single file the parts are not told
            return False
        return spec.load.offload or (self._allowed and spec.weight_bytes > self.usable_bytes)

    def on_device(self, spec: ModelSpec) -> int:
        """Bytes of weights that are on the device at once."""
        if not self.offloads(spec):
            return spec.weight_bytes
        known = self._visiting.get(spec.name)
        if known is None or known[0] is not spec:
            assert spec.path is not None
            known = self._visiting[spec.name] = spec, offloaded_device_bytes(spec.path, self._float_bytes(spec))
        return min(spec.weight_bytes, known[1])


class Requirements:
    def __init__(self, peaks: Peaks, key_of: Callable[[ModelSpec], str], weights: Weights) -> None:
        """key_of: under which a model's peaks are known. weights: as the largest device holds them."""
        self._peaks = peaks
        self._key_of = key_of
        self._weights = weights

    def of(self, spec: ModelSpec, requests: Sequence[Request] = ()) -> int:
        """Weights and KV cache, or weights, adapters and the most that one of `requests` is sure to hold beside them."""
        if spec.type == "chat":
            return spec.weight_bytes + cache_bytes(spec.weight_bytes, self._weights.usable_bytes)
        pictures = [it for it in requests if isinstance(it, DiffusionRequest)]
        shapes = {(it.shape, it.units) for it in pictures}
        key = self._key_of(spec) or spec.name
        beside = max((self._peaks.at_least(key, *shape) for shape in shapes), default=0)
        beside += max((sum(lora.n_bytes for lora in it.loras) for it in pictures), default=0)
        weights = self._weights.on_device(spec)
        return (
            max(weights, beside) if self._weights.offloads(spec) else weights + beside
        )  # blocks that visit are in the peak
