"""Loads LoRAs into one pipeline, and activates a job's own set around each of its forwards. Device thread only.

Several jobs take turns on the same modules, so the active adapters belong to a forward and not to the pipeline: only
jobs with the same set may share a forward. A file that was rewritten is another adapter.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipelines import device
from pipelines.diffusion.lora.adapter_check import compare
from pipelines.diffusion.lora.layer_names import LayerNames
from pipelines.diffusion.lora.layers import Layers, layers_of
from pipelines.diffusion.lora.lora_file import BadLora, LoraFile, names, read_lora, shown
from pipelines.diffusion.lora.lycoris import NotConvertible, as_lora
from pipelines.diffusion.lora.renaming import State
from pipelines.diffusion.lora.weights import LoraWeights, fit
from pipelines.diffusion_interface import Lora
from pipelines.dtype_lock import loading

MAX_ADAPTERS = 16  # adapters in memory; beyond that the least recently used are dropped
OWN_LOKR = ("Flux2", "ZImage")  # pipelines for which diffusers itself reads LoKr
# For these layers diffusers would fuse the model's own, and LoRAs of other jobs would then do nothing, unnoticed.
FUSED_LOKR = re.compile(r"qkv\.lokr_")

__all__ = ["Adapters", "BadLora"]

Key = tuple[str, int]  # path, stamp


class Adapters:
    def __init__(self, pipeline: Any, on_change: Callable[[], None] = lambda: None) -> None:
        """on_change: called when the modules hold other weights than before."""
        self._pipeline = pipeline
        self._on_change = on_change
        self._loaded: dict[Key, str] = {}  # → name in peft, least recently used first
        self._n_loaded = 0  # ever, for unique names
        self._active: tuple[Lora, ...] = ()
        self._partial: dict[Key, tuple[str, ...]] = {}  # warnings about files of which only a part fits

    def load(self, loras: tuple[Lora, ...], in_use: Collection[Lora] = ()) -> list[str]:
        """Load those that are not loaded yet; returns warnings. Raises `BadLora`.

        in_use: adapters that must stay. Others may be dropped.
        """
        before = set(self._loaded)
        try:
            self._load_and_evict(loras, in_use)
        finally:
            if self._loaded.keys() != before:  # also when the second of two does not fit
                self._on_change()
        idle = [f"The LoRA {lora.name} has weight 0 and changes nothing." for lora in loras if lora.weight == 0]
        return [*(warning for lora in loras for warning in self._partial.get(_key(lora), ())), *idle]

    def _load_and_evict(self, loras: tuple[Lora, ...], in_use: Collection[Lora]) -> None:
        for lora in loras:
            if _key(lora) not in self._loaded:
                self._load(lora)
        for lora in loras:
            self._loaded[_key(lora)] = self._loaded.pop(_key(lora))
        wanted = {_key(lora) for lora in (*loras, *in_use)}
        evicted = [key for key in self._loaded if key not in wanted][: max(0, len(self._loaded) - MAX_ADAPTERS)]
        if evicted:
            self.activate(())
        for key in evicted:
            self._drop(self._loaded.pop(key))
            self._partial.pop(key, None)

    def _load(self, lora: Lora) -> None:
        if not hasattr(self._pipeline, "load_lora_weights"):
            raise BadLora(f"{type(self._pipeline).__name__} takes no LoRA.")
        adapter = f"lora_{self._n_loaded}"
        self._n_loaded += 1
        try:
            with loading():
                warnings = self._inject(lora, adapter)
        except Exception as error:  # the library raises many kinds, about shapes, keys and formats
            self._drop(adapter)
            if isinstance(error, BadLora) or device.is_out_of_memory(error) or device.is_fatal(error):
                raise
            raise BadLora(f"The LoRA {lora.name} does not fit this model.") from error
        if warnings:
            self._partial[_key(lora)] = warnings
        self._loaded[_key(lora)] = adapter
        self._active = (lora,)  # loading activates it
        self.activate(())

    def _inject(self, lora: Lora, adapter: str) -> tuple[str, ...]:
        """Adds the layers of a LoRA to the modules; returns warnings. Raises `BadLora`."""
        layers = layers_of(self._pipeline)
        file = self._as_lora(read_lora(Path(lora.path), lora.name), lora.name, layers)
        with self._checked(functools.partial(fit, lora.name, file, layers)) as found:
            self._pipeline.load_lora_weights(dict(file.tensors), adapter_name=adapter)
        (weights,) = found
        injected = compare(self._pipeline, adapter, weights.tensors())
        if injected.foreign is not None:
            raise BadLora(f"The LoRA {lora.name} does not fit this model: it has no {shown(injected.foreign)}.")
        if ignored := sorted(weights.layers.keys() - injected.adapted):
            raise BadLora(f"The LoRA {lora.name} does not fit this model: diffusers ignores {names(ignored)}.")
        if isinstance(getattr(self._pipeline, "transformer_2", None), torch.nn.Module):
            return (*weights.warnings, f"The LoRA {lora.name} is worn by the first of this model's two denoisers only.")
        return weights.warnings

    def _as_lora(self, file: LoraFile, name: str, layers: Layers) -> LoraFile:
        """Converts LoHa, and LoKr where diffusers cannot read it."""
        own_lokr = type(self._pipeline).__name__.startswith(OWN_LOKR)
        if own_lokr and not any(".hada_" in key or FUSED_LOKR.search(key) for key in file.tensors):
            return file
        modules = {
            spelling: layers[component][layer]
            for spelling, found in LayerNames(layers).spellings().items()
            for component, _, layer in [found.partition(".")]
        }
        try:
            return replace(file, tensors=as_lora(file.tensors, modules))
        except NotConvertible as error:
            raise BadLora(f"The LoRA {name} is damaged: {error}.") from error

    @contextlib.contextmanager
    def _checked(self, check: Callable[..., LoraWeights]) -> Iterator[list[LoraWeights]]:
        """Within this context, diffusers loads what `check` makes of a file's tensors, instead of the tensors."""
        found: list[LoraWeights] = []
        reads = self._pipeline.lora_state_dict

        def read(_: Any, **kwargs: Any) -> Any:
            weights = check(lambda state: _with_alphas(reads(state, **kwargs)))
            found.append(weights)
            state = weights.for_diffusers()
            return (state, *[None for _ in reads(dict(state), **kwargs)[1:]])  # no alphas, no metadata

        self._pipeline.lora_state_dict = read
        try:
            yield found
        finally:
            del self._pipeline.lora_state_dict  # the class's own method shows again

    def wrap_forward(self, loras: tuple[Lora, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with these adapters active, and no others."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.activate(loras)
            return function(*args, **kwargs)

        return run

    def activate(self, loras: tuple[Lora, ...]) -> None:
        loras = tuple(lora for lora in loras if lora.weight)  # at 0 the magnitudes of DoRA would still apply
        if loras == self._active:
            return
        if loras:
            self._pipeline.enable_lora()
            self._pipeline.set_adapters([self._loaded[_key(lora)] for lora in loras], [lora.weight for lora in loras])
        else:
            self._pipeline.disable_lora()
        self._active = loras

    def _names(self) -> set[str]:
        return {name for names in self._pipeline.get_list_adapters().values() for name in names}

    def _drop(self, name: str) -> None:
        if name in self._names():
            self._pipeline.delete_adapters(name)


def _with_alphas(result: tuple[Any, ...]) -> tuple[State, Mapping[str, Any]]:
    """What `lora_state_dict` returns: the state, alphas in some classes, and metadata."""
    return result[0], (result[1] if len(result) > 2 else None) or {}


def _key(lora: Lora) -> Key:
    return lora.path, lora.stamp
