"""LoRAs of one pipeline: loaded once, put on around each forward. Device thread only.

Several jobs take turns on the same modules, so which adapters are on is a matter of the forward, not of the pipeline: a job's
forwards run with its own set, and only jobs with the same set may share one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.interface import Lora


class BadAdapter(Exception):
    """This pipeline cannot wear this file. The message may be shown to the client."""


class Adapters:
    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._loaded: dict[str, str] = {}  # path → name in peft
        self._worn: tuple[Lora, ...] = ()

    def load(self, loras: tuple[Lora, ...]) -> None:
        """Bring in what is not there yet. Raises `BadAdapter`."""
        for lora in loras:
            if lora.path in self._loaded:
                continue
            if not hasattr(self._pipeline, "load_lora_weights"):
                raise BadAdapter(f"{type(self._pipeline).__name__} takes no LoRA.")
            path, name = Path(lora.path), f"lora_{len(self._loaded)}"
            before = self._names()
            try:
                self._pipeline.load_lora_weights(
                    str(path.parent),
                    weight_name=path.name,
                    adapter_name=name,
                    local_files_only=True,
                    use_safetensors=True,
                )
            except Exception as error:  # the library's own, of many kinds: shapes, keys, formats
                self._drop(name)
                raise BadAdapter(f"The LoRA {lora.name} does not fit this model.") from error
            if self._names() == before:  # it only warns of keys that fit nowhere
                raise BadAdapter(f"The LoRA {lora.name} does not fit this model.")
            self._loaded[lora.path] = name
            self._worn = (lora,)  # loading puts it on
            self.wear(())

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
            self._pipeline.set_adapters([self._loaded[lora.path] for lora in loras], [lora.weight for lora in loras])
        else:
            self._pipeline.disable_lora()
        self._worn = loras

    def _names(self) -> set[str]:
        return {name for names in self._pipeline.get_list_adapters().values() for name in names}

    def _drop(self, name: str) -> None:
        if name in self._names():
            self._pipeline.delete_adapters(name)
