"""Fits IP-Adapters to the denoiser of a pipeline, and lets single requests wear them. Device thread only.

diffusers loads an IP-Adapter into the denoiser that all requests share: it replaces attention processors by ones with
weights, and sets a projection. Here it does so once, and what it made is kept aside, with the denoiser as before. A
request that wears an IP-Adapter puts that on the denoiser in its own task, which `batching.module_state` keeps apart
from others. Requests with the same adapters and strengths wear the same objects, so that they may share forwards.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from pipelines.batching.module_state import IN_CONFIG, OF_IP_ADAPTERS
from pipelines.diffusion.adapters.lent_modules import BadAdapter
from pipelines.dtype_lock import loading

IMAGE_ARGUMENT = "ip_adapter_image"
ABSENT = object()


class IpAdapter(nn.Module):
    """An IP-Adapter that was fitted to one denoiser, and the encoder of its pictures."""

    def __init__(
        self,
        processors: Mapping[str, nn.Module],
        projection: nn.Module,
        image_encoder: nn.Module | None,
        feature_extractor: Any,
    ) -> None:
        """processors: those with weights, by the names that the denoiser gives them.

        image_encoder, feature_extractor: None to use those of the checkpoint.
        """
        super().__init__()
        self.names = list(processors)
        self.processors = nn.ModuleList(processors.values())
        self.projection = projection
        self.image_encoder = image_encoder
        self.feature_extractor = feature_extractor

    @property
    def is_alone(self) -> bool:
        """Whether a request can wear no other beside it, and give it one picture (SD 3)."""
        return not hasattr(self.projection, "image_projection_layers")

    @property
    def called(self) -> nn.Module | None:
        """The part that pipelines call by itself."""
        return self.image_encoder


def fit(
    name: str,
    pipeline: Any,
    tensors: Mapping[str, torch.Tensor],
    encoder: nn.Module | None = None,
    extractor: Any | None = None,
) -> IpAdapter:
    """Makes an `IpAdapter` of the tensors of a file: "image_proj.…", "ip_adapter.…".

    name: of the adapter, for messages. encoder, extractor: of the adapter's own folder, if it has them. Raises
    `BadAdapter`.
    """
    denoiser = denoiser_of(pipeline)
    if denoiser is None or not hasattr(pipeline, "load_ip_adapter"):
        raise BadAdapter(f"The adapter {name} cannot be used: {type(pipeline).__name__} takes no IP-Adapter.")
    own = copy.copy(pipeline)
    if encoder is not None:
        own.image_encoder, own.feature_extractor = encoder, extractor
    if own.image_encoder is None:
        raise BadAdapter(
            f"The adapter {name} has no folder image_encoder, and this model no encoder of pictures either."
        )
    try:
        with loading(), _left_as_it_was(denoiser):
            own.load_ip_adapter(by_part(tensors), subfolder="", weight_name="")
            processors = {
                name: processor for name, processor in denoiser.attn_processors.items() if _has_weights(processor)
            }
            projection = getattr(denoiser, "encoder_hid_proj", None) or denoiser.image_proj
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # What the library raises about tensors of another shape, or that are missing.
        raise BadAdapter(f"The adapter {name} does not fit this model.") from error
    adapter = IpAdapter(processors, projection, encoder, own.feature_extractor)
    return adapter.to(denoiser.dtype).requires_grad_(False).eval()


def denoiser_of(pipeline: Any) -> Any | None:
    """The denoiser that takes IP-Adapters; None when the pipeline has none."""
    found = (getattr(pipeline, name, None) for name in ("unet", "transformer"))
    return next((module for module in found if hasattr(module, "_load_ip_adapter_weights")), None)


class Worn:
    """A set of adapters, each with a strength, as a denoiser wears it."""

    def __init__(self, adapters: Sequence[tuple[IpAdapter, float]]) -> None:
        self._adapters = adapters  # whose ids are those of the set
        self._processors, self._projection = _join(adapters)

    def put_on(self, own: Any) -> None:
        """From within the request's task. own: its copy of the pipeline."""
        denoiser = denoiser_of(own)
        assert denoiser is not None, "the adapters were fitted to it"
        modules: dict[str, Any] = dict(denoiser.named_modules())
        for name, processor in self._processors.items():
            module = modules[name.removesuffix(".processor")]
            if hasattr(processor, "_attention_backend"):
                processor._attention_backend = getattr(module.processor, "_attention_backend", None)
            module.set_processor(processor)
        _set_projection(denoiser, self._projection)
        first = self._adapters[0][0]
        if first.image_encoder is not None:
            own.image_encoder = first.image_encoder
        own.feature_extractor = first.feature_extractor
        vars(own)["_worn_ip_adapters"] = self  # kept as long as the request, for others with the same set


class IpAdapterSets:
    """The sets that requests wear at the moment."""

    def __init__(self) -> None:
        self._worn: WeakValueDictionary[tuple[tuple[int, float], ...], Worn] = WeakValueDictionary()

    def wear(self, own: Any, adapters: Sequence[tuple[IpAdapter, float]]) -> None:
        """Put the adapters on the denoiser, from within the request's task. own: its copy of the pipeline."""
        key = tuple((id(adapter), strength) for adapter, strength in adapters)
        worn = self._worn.get(key)
        if worn is None:
            worn = self._worn[key] = Worn(adapters)
        worn.put_on(own)


def _join(adapters: Sequence[tuple[IpAdapter, float]]) -> tuple[dict[str, Any], nn.Module]:
    """Processors and a projection over the adapters' own layers, as diffusers makes them of several files at once."""
    first, strengths = adapters[0][0], [strength for _, strength in adapters]
    if first.is_alone:
        return {
            name: _copy(one, scale=strengths[0]) for name, one in zip(first.names, first.processors, strict=True)
        }, (first.projection)
    processors: dict[str, Any] = {}
    for name, *alike in zip(first.names, *(adapter.processors for adapter, _ in adapters), strict=True):
        parts: dict[str, Any] = {
            key: nn.ModuleList([layer for one in alike for layer in getattr(one, key)])
            for key in ("to_k_ip", "to_v_ip")
        }
        if hasattr(alike[0], "num_tokens"):
            parts["num_tokens"] = [n for one in alike for n in one.num_tokens]
        processors[name] = _copy(alike[0], scale=list(strengths), **parts)
    layers = [layer for adapter, _ in adapters for layer in adapter.projection.image_projection_layers]  # type: ignore[union-attr]
    return processors, type(first.projection)(layers)


def _copy(module: Any, **attributes: Any) -> nn.Module:
    """A copy that shares the weights, with other attributes."""
    copied: nn.Module = copy.copy(module)
    copied._modules = dict(module._modules)
    for name, value in attributes.items():
        setattr(copied, name, value)
    return copied


def _set_projection(denoiser: Any, projection: nn.Module) -> None:
    """As `_load_ip_adapter_weights` of the denoiser's class sets it."""
    if not hasattr(projection, "image_projection_layers"):
        denoiser.image_proj = projection
        return
    if getattr(denoiser.config, IN_CONFIG, None) == "text_proj":  # Kolors: the projection of its prompts stays in use
        denoiser.text_encoder_hid_proj = denoiser.encoder_hid_proj
    denoiser.encoder_hid_proj = projection
    setattr(denoiser.config, IN_CONFIG, "ip_image_proj")


@contextmanager
def _left_as_it_was(denoiser: Any) -> Iterator[None]:
    """Afterwards the denoiser has the processors and projections that it had before."""
    processors = {name: module for name, module in denoiser.named_modules() if hasattr(module, "set_processor")}
    before = {name: module.processor for name, module in processors.items()}
    settings = [(denoiser, name, getattr(denoiser, name, ABSENT)) for name in OF_IP_ADAPTERS]
    settings.append((denoiser.config, IN_CONFIG, getattr(denoiser.config, IN_CONFIG, ABSENT)))
    denoiser.to = lambda *_, **__: denoiser  # the library casts the whole denoiser, layers of another dtype too
    try:
        yield
    finally:
        del denoiser.to
        for name, module in processors.items():
            module.set_processor(before[name])
        for owner, name, value in settings:
            if value is not ABSENT:
                setattr(owner, name, value)
            elif hasattr(owner, name):
                delattr(owner, name)


def by_part(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors as diffusers sorts those of a file; X-Labs' files for Flux have names of their own."""
    found: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        if part in ("image_proj", "ip_adapter_proj_model"):
            found["image_proj"][name] = tensor
        elif part in ("ip_adapter", "double_blocks"):
            for old, new in (("ip_adapter_double_stream_k_proj", "to_k_ip"),
                             ("ip_adapter_double_stream_v_proj", "to_v_ip"), ("processor.", "")):  # fmt: skip
                name = name.replace(old, new) if part == "double_blocks" else name
            found["ip_adapter"][name] = tensor
    return found


def _has_weights(processor: object) -> bool:
    return isinstance(processor, nn.Module) and next(processor.parameters(), None) is not None
