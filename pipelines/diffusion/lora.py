"""Loads LoRAs into one pipeline, and activates a job's own set around each of its forwards. Device thread only.

Several jobs take turns on the same modules, so the active adapters belong to a forward and not to the pipeline: only
jobs with the same set may share a forward. A file that was rewritten is another adapter.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pipelines import device
from pipelines.diffusion.lycoris import as_lora
from pipelines.dtype_lock import loading
from pipelines.interface import Lora

MAX_ADAPTERS = 16  # adapters in memory; beyond that the least recently used are dropped
# Components by their prefixes in the files of kohya's trainer.
KOHYA = {"unet": "lora_unet", "transformer": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
OWN_LOKR = ("Flux2", "ZImage")  # pipelines for which diffusers itself reads LoKr

LAYER = re.compile(r"[._]lora[._]|[._]lora_")  # what follows a layer's name in all notations of diffusers

Key = tuple[str, int]  # path, stamp


class BadLora(Exception):
    """This pipeline cannot use this file. The message may be shown to the client."""


class Adapters:
    def __init__(self, pipeline: Any, on_change: Callable[[], None] = lambda: None) -> None:
        """on_change: called when the modules hold other weights than before."""
        self._pipeline = pipeline
        self._on_change = on_change
        self._loaded: dict[Key, str] = {}  # → name in peft, least recently used first
        self._n_loaded = 0  # ever, for unique names
        self._active: tuple[Lora, ...] = ()
        self._partial: dict[Key, str] = {}  # warnings about files of which only a part fits

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
        return [self._partial[_key(lora)] for lora in loras if _key(lora) in self._partial]

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
        name = f"lora_{self._n_loaded}"
        self._n_loaded += 1
        try:
            with loading(), self._targets() as wanted:
                self._load_file(Path(lora.path), name)
        except Exception as error:  # the library raises many kinds, about shapes, keys and formats
            self._drop(name)
            if device.is_out_of_memory(error) or device.is_fatal(error):
                raise
            raise BadLora(f"The LoRA {lora.name} does not fit this model.") from error
        n_found = self._count_adapted_layers(name)
        if not n_found:  # the library only warns about keys that fit nowhere
            self._drop(name)
            raise BadLora(f"The LoRA {lora.name} does not fit this model: it is for none of its layers.")
        if n_found < len(wanted):
            self._partial[_key(lora)] = (
                f"The LoRA {lora.name} is for {len(wanted)} layers; this model has {n_found} of them, "
                "the rest was left out."
            )
        self._loaded[_key(lora)] = name
        self._active = (lora,)  # loading activates it
        self.activate(())

    def _load_file(self, path: Path, name: str) -> None:
        with safe_open(path, "pt") as file:
            keys = file.keys()
        lokr = any(".lokr_" in key for key in keys)
        if any(".hada_" in key for key in keys) or (lokr and not type(self._pipeline).__name__.startswith(OWN_LOKR)):
            self._pipeline.load_lora_weights(as_lora(load_file(path), self._modules()), adapter_name=name)
            return
        self._pipeline.load_lora_weights(
            str(path.parent), weight_name=path.name, adapter_name=name, local_files_only=True, use_safetensors=True
        )

    @contextlib.contextmanager
    def _targets(self) -> Iterator[set[str]]:
        """Collects the layers that a file loaded within this context is for, by the names that diffusers gives them."""
        found: set[str] = set()
        reads = self._pipeline.lora_state_dict

        def record(*args: Any, **kwargs: Any) -> Any:
            result = reads(*args, **kwargs)
            state = result[0] if isinstance(result, tuple) else result
            found.update(LAYER.split(key)[0] for key in state if LAYER.search(key))
            return result

        self._pipeline.lora_state_dict = record
        try:
            yield found
        finally:
            del self._pipeline.lora_state_dict  # the class's own method shows again

    def _count_adapted_layers(self, name: str) -> int:
        """The number of layers that have this adapter."""
        parts = [part for part in vars(self._pipeline).values() if isinstance(part, torch.nn.Module)]
        layers = (layer for part in parts for layer in part.modules())
        return sum(
            name in getattr(layer, "lora_A", ()) or name in getattr(layer, "lora_embedding_A", ()) for layer in layers
        )

    def _modules(self) -> dict[str, torch.nn.Module]:
        """The pipeline's modules by the names that kohya's trainer and LyCORIS give them."""
        return {
            f"{prefix}_{name.replace('.', '_')}": module
            for part, kohya in KOHYA.items()
            if isinstance(component := getattr(self._pipeline, part, None), torch.nn.Module)
            for name, module in component.named_modules()
            if isinstance(getattr(module, "weight", None), torch.Tensor)
            for prefix in (kohya, f"{kohya}1", f"{kohya}_text_model", f"{kohya}1_text_model")
        }

    def wrap_forward(self, loras: tuple[Lora, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` with these adapters active, and no others."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.activate(loras)
            return function(*args, **kwargs)

        return run

    def activate(self, loras: tuple[Lora, ...]) -> None:
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


def _key(lora: Lora) -> Key:
    return lora.path, lora.stamp
