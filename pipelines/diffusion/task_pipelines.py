"""Makes the stock pipelines of other tasks over one checkpoint's modules: image-to-image, inpainting and so on.

Device thread only. Every module stays the same object, so that its weights are held once, its wrapped entry points
serve all tasks, and calls of different tasks may share a forward. `DiffusionPipeline.from_pipe` does nearly the same,
but casts the modules to a dtype and leaves out components of a class that it does not expect.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.configuration_utils import ConfigMixin

from pipelines.diffusion_interface import UPSCALER


class UnknownPipeline(Exception):
    """There is no such pipeline over this checkpoint's modules. The message may be shown to the client."""


class TaskPipelines:
    def __init__(self, pipeline: Any) -> None:
        """pipeline: the checkpoint's own, whose components the others share."""
        self._own = pipeline
        self._made: dict[str, Any] = {type(pipeline).__name__: pipeline}

    def get(self, name: str | None, lent: Mapping[str, Any] | None = None) -> Any:
        """The pipeline of class `name`; None: the checkpoint's own. Raises `UnknownPipeline`.

        lent: components of adapters, by their names in the class. Such a pipeline is made for each request anew.
        """
        if name is None:
            return self._own
        if lent:
            return self._make(name, lent)
        if name not in self._made:
            self._made[name] = self._make(name, {})
        return self._made[name]

    def _make(self, name: str, lent: Mapping[str, Any]) -> Any:
        cls = pipeline_class(name)
        shared = _shared(self._own, cls)
        try:
            made = cls(**{**shared, **lent})
        except (TypeError, ValueError, AttributeError) as error:  # a component is missing, or of another kind
            raise UnknownPipeline(f"{name} does not fit this model.") from error
        for component, value in shared.items():
            if isinstance(value, torch.nn.Module) and getattr(made, component, None) is not value:
                raise UnknownPipeline(f"{name} does not fit this model: it changes its {component}.")
        made.set_progress_bar_config(disable=True)
        return made


@functools.lru_cache(maxsize=256)
def pipeline_class(name: str) -> type:
    """The pipeline class of diffusers with this name, or that of upscalers. Raises `UnknownPipeline`."""
    if name == UPSCALER:
        from pipelines.upscaling.pipeline import UpscalerPipeline

        return UpscalerPipeline
    cls = getattr(diffusers, name, None)
    if not (inspect.isclass(cls) and issubclass(cls, DiffusionPipeline)):
        raise UnknownPipeline(f"diffusers has no pipeline {name}.")
    return cls


def _shared(own: Any, cls: type) -> dict[str, Any]:
    """The arguments of the class's constructor that the pipeline `own` has: its components, and plain settings."""
    components, config = own.components, own.config
    optional: list[str] = getattr(cls, "_optional_components", [])
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():  # type: ignore[misc]  # of a class
        if name in components:
            found[name] = value = components[name]
            if isinstance(value, ConfigMixin) and not isinstance(value, torch.nn.Module):
                found[name] = copy.deepcopy(value)  # some constructors correct the noise scheduler that they are given
        elif name in config:
            found[name] = config[name]
        elif name in optional and parameter.default is parameter.empty:
            found[name] = None
    return found
