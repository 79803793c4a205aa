"""Hands a request's ControlNets and T2I-Adapters to the pipeline class that takes them. Device thread only.

Classes that take several wrap them in a module of their own (`MultiControlNetModel`), which calls each of them; so
each stays an entry point. Strength and range go by the names that the classes share.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, get_args

from pipelines.diffusion_interface import ONE_CONTROLNET, Adapter, AdapterKind, DiffusionRequest

COMPONENTS: Mapping[AdapterKind, str] = {"controlnet": "controlnet", "t2i_adapter": "adapter"}
END_OF_ALL = "adapter_conditioning_factor"  # one value for all maps, where T2I-Adapters have an end
STRENGTHS = ("controlnet_conditioning_scale", "adapter_conditioning_scale")


def lent_components(request: DiffusionRequest, cls: type, borrow: Callable[[Adapter], Any]) -> dict[str, Any]:
    """The arguments of the constructor of `cls` that take the request's ControlNets or T2I-Adapters."""
    adapters = [control.adapter for control in request.inputs.controls if control.adapter is not None]
    if not adapters:
        return {}
    name = COMPONENTS[adapters[0].kind]
    modules = [borrow(adapter) for adapter in adapters]
    if len(modules) == 1 or (_has_modes(request) and type(modules[0]).__name__ == "ControlNetUnionModel"
                             and len(set(adapters)) == 1):  # fmt: skip
        return {name: modules[0]}  # one such model follows maps of several kinds at once
    return {name: _several(cls, name, modules)}


def control_arguments(request: DiffusionRequest, parameters: Collection[str]) -> dict[str, Any]:
    """Strength, range and mode of the request's controls under the names of the pipeline's own arguments.

    A class without an argument was not given a value for it (`server.jobs.request.controls`).
    """
    controls = request.inputs.controls
    if not controls:
        return {}
    wanted: dict[str, Sequence[Any]] = {
        **{name: [control.strength for control in controls] for name in STRENGTHS},
        "control_guidance_start": [control.start for control in controls],
        "control_guidance_end": [control.end for control in controls],
    }
    if _has_modes(request):
        wanted["control_mode"] = [control.mode for control in controls]
    alone = len(controls) == 1
    found = {name: values[0] if alone else list(values) for name, values in wanted.items() if name in parameters}
    if END_OF_ALL in parameters:
        found[END_OF_ALL] = controls[0].end
    return found


def _has_modes(request: DiffusionRequest) -> bool:
    return any(control.mode is not None for control in request.inputs.controls)


def _several(cls: type, name: str, modules: list[Any]) -> Any:
    """What the constructor takes for several modules: the class that holds several, or a list."""
    if cls.__name__ in ONE_CONTROLNET:
        modules = modules[:1]
    takes = get_args(inspect.signature(cls.__init__).parameters[name].annotation)  # type: ignore[misc]  # of a class
    holder = next((each for each in takes if "Multi" in getattr(each, "__name__", "")), None)
    return modules if holder is None else holder(modules)
