"""LoRAs of one pipeline: loaded once, put on around each forward. Device thread only.

Several jobs take turns on the same modules, so which adapters are on is a matter of the forward, not of the pipeline: a job's
forwards run with its own set, and only jobs with the same set may share one. A file that was written anew is another adapter.
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

MOST = 16  # adapters that stay in memory; beyond that those go whose last job is longest ago
KOHYA = {"unet": "lora_unet", "transformer": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}
OWN_LOKR = ("Flux2", "ZImage")  # pipelines whose LoKr diffusers reads by itself

LAYER = re.compile(r"[._]lora[._]|[._]lora_")  # what follows a layer's name in all the ways diffusers writes an adapter

Key = tuple[str, int]  # path, stamp


class BadAdapter(Exception):
    """This pipeline cannot wear this file. The message may be shown to the client."""


class Adapters:
    def __init__(self, pipeline: Any, changed: Callable[[], None] = lambda: None) -> None:
        """`changed`: told when the modules hold other weights than before."""
        self._pipeline = pipeline
        self._changed = changed
        self._loaded: dict[Key, str] = {}  # → name in peft; the one used last is last
        self._made = 0
        self._worn: tuple[Lora, ...] = ()
        self._partly: dict[Key, str] = {}  # what to tell of those that were made for more than there is

    def load(self, loras: tuple[Lora, ...], in_use: Collection[Lora] = ()) -> list[str]:
        """Bring in what is not there yet, for which others than those of `in_use` may go. Raises `BadAdapter`; returns warnings."""
        before = set(self._loaded)
        try:
            self._bring_in(loras, in_use)
        finally:
            if self._loaded.keys() != before:  # also where the second of two does not fit
                self._changed()
        return [self._partly[_key(lora)] for lora in loras if _key(lora) in self._partly]

    def _bring_in(self, loras: tuple[Lora, ...], in_use: Collection[Lora]) -> None:
        for lora in loras:
            if _key(lora) not in self._loaded:
                self._load(lora)
        for lora in loras:
            self._loaded[_key(lora)] = self._loaded.pop(_key(lora))
        wanted = {_key(lora) for lora in (*loras, *in_use)}
        gone = [key for key in self._loaded if key not in wanted][: max(0, len(self._loaded) - MOST)]
        if gone:
            self.wear(())
        for key in gone:
            self._drop(self._loaded.pop(key))
            self._partly.pop(key, None)

    def _load(self, lora: Lora) -> None:
        if not hasattr(self._pipeline, "load_lora_weights"):
            raise BadAdapter(f"{type(self._pipeline).__name__} takes no LoRA.")
        name = f"lora_{self._made}"
        self._made += 1
        try:
            with loading(), self._targets() as wanted:
                self._bring(Path(lora.path), name)
        except Exception as error:  # the library's own, of many kinds: shapes, keys, formats
            self._drop(name)
            if device.is_out_of_memory(error) or device.is_fatal(error):
                raise
            raise BadAdapter(f"The LoRA {lora.name} does not fit this model.") from error
        n_found = self._dressed(name)
        if not n_found:  # the library only warns of keys that fit nowhere
            self._drop(name)
            raise BadAdapter(f"The LoRA {lora.name} does not fit this model: it is for none of its layers.")
        if n_found < len(wanted):
            self._partly[_key(lora)] = (
                f"The LoRA {lora.name} is for {len(wanted)} layers; this model has {n_found} of them, the rest was left out."
            )
        self._loaded[_key(lora)] = name
        self._worn = (lora,)  # loading puts it on
        self.wear(())

    def _bring(self, path: Path, name: str) -> None:
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
        """The layers a file is for, once it was loaded inside: in the names the library turned the file's into."""
        found: set[str] = set()
        reads = self._pipeline.lora_state_dict

        def listen(*args: Any, **kwargs: Any) -> Any:
            result = reads(*args, **kwargs)
            state = result[0] if isinstance(result, tuple) else result
            found.update(LAYER.split(key)[0] for key in state if LAYER.search(key))
            return result

        self._pipeline.lora_state_dict = listen
        try:
            yield found
        finally:
            del self._pipeline.lora_state_dict  # the class's own shows again

    def _dressed(self, name: str) -> int:
        """Layers that have this adapter."""
        parts = [part for part in vars(self._pipeline).values() if isinstance(part, torch.nn.Module)]
        layers = (layer for part in parts for layer in part.modules())
        return sum(
            name in getattr(layer, "lora_A", ()) or name in getattr(layer, "lora_embedding_A", ()) for layer in layers
        )

    def _modules(self) -> dict[str, torch.nn.Module]:
        """By the names that kohya's trainer and LyCORIS give them."""
        return {
            f"{prefix}_{name.replace('.', '_')}": module
            for part, kohya in KOHYA.items()
            if isinstance(component := getattr(self._pipeline, part, None), torch.nn.Module)
            for name, module in component.named_modules()
            if isinstance(getattr(module, "weight", None), torch.Tensor)
            for prefix in (kohya, f"{kohya}1", f"{kohya}_text_model", f"{kohya}1_text_model")
        }

    def around(self, loras: tuple[Lora, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, run with these adapters on and no others."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.wear(loras)
            return function(*args, **kwargs)

        return run

    def wear(self, loras: tuple[Lora, ...]) -> None:
        if loras == self._worn:
            return
        if loras:
            self._pipeline.enable_lora()
            self._pipeline.set_adapters([self._loaded[_key(lora)] for lora in loras], [lora.weight for lora in loras])
        else:
            self._pipeline.disable_lora()
        self._worn = loras

    def _names(self) -> set[str]:
        return {name for names in self._pipeline.get_list_adapters().values() for name in names}

    def _drop(self, name: str) -> None:
        if name in self._names():
            self._pipeline.delete_adapters(name)


def _key(lora: Lora) -> Key:
    return lora.path, lora.stamp
