"""Chooses the ControlNet or T2I-Adapter of each map of a request, and checks what its pipeline class can be told.

Pure functions, except that they read configs and headers of files. Errors name the field and what may be there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.adapters.control_types import SPELLINGS, canonical_type
from models.adapters.fit import fits, misfit, takes_class, takes_several
from models.errors import ModelsError, StillRead
from models.spec import ModelSpec
from pipelines.diffusion_interface import (
    AUTO_CANNY,
    ONE_CONTROLNET,
    PREPROCESSORS,
    Control,
    MediaFile,
    PipelineTask,
)
from server.errors import BadRequest, ModelStillRead
from server.jobs.request.adapters import MAX_NAMED, adapter_of
from server.jobs.request.generate_request import WantedControl

CONTROLS = ("controlnet", "t2i_adapter")
SAME_AS_NONE = ("resize",)  # each map is brought to the size of the output anyway


@dataclass(frozen=True, slots=True)
class ChosenControl:
    wanted: WantedControl
    adapter: ModelSpec | None  # None: the checkpoint itself follows the map
    mode: int | None
    preprocessor: str | None


def choose_controls(
    wanted: Sequence[WantedControl], spec: ModelSpec, find: Callable[[str], ModelSpec], all_specs: Sequence[ModelSpec]
) -> tuple[ChosenControl, ...]:
    """find: raises `ModelsError` for a name that no model has. all_specs: of the catalogue. Raises `BadRequest`."""
    chosen = tuple(_choose(i, each, spec, find, all_specs) for i, each in enumerate(wanted))
    classes = {control.adapter and control.adapter.adapter_class for control in chosen}
    if len(classes) > 1:
        raise BadRequest(
            f"control: one request takes adapters of one class, these are of {', '.join(sorted(map(str, classes)))}.",
            param="control",
        )
    return chosen


def tasks_for(chosen: Sequence[ChosenControl], spec: ModelSpec) -> tuple[PipelineTask, ...]:
    """The pipeline classes of the model that take these controls, or those without a control if there are none."""
    if not chosen:
        return tuple(task for task in spec.tasks if not task.lent)
    cls = chosen[0].adapter.adapter_class if chosen[0].adapter is not None else None
    with_control = (task for task in spec.tasks if "control" in task.inputs)
    return tuple(task for task in with_control if (takes_class(task, cls) if cls is not None else not task.lent))


def check_controls(chosen: Sequence[ChosenControl], task: PipelineTask) -> None:
    """Raises `BadRequest` for what the class of `task` cannot be told."""
    if len(chosen) > 1 and not takes_several(task):
        raise BadRequest(f"control: {task.pipeline} follows one map.", param="control")
    if task.pipeline in ONE_CONTROLNET and len({control.adapter and control.adapter.name for control in chosen}) > 1:
        raise BadRequest(f"control: {task.pipeline} follows several maps by one ControlNet only.", param="control")
    for i, control in enumerate(chosen):
        wanted = control.wanted
        for name, value, default, arguments in (
            ("strength", wanted.strength, 1.0, ("controlnet_conditioning_scale", "adapter_conditioning_scale")),
            ("start", wanted.start, 0.0, ("control_guidance_start",)),
            ("end", wanted.end, 1.0, ("control_guidance_end", "adapter_conditioning_factor")),
        ):
            if value != default and task.arguments.isdisjoint(arguments):
                raise _bad(i, name, f"must be {default:g}: {task.pipeline} cannot change it")
        if wanted.start >= wanted.end:
            raise _bad(i, "start", "must be less than its end")
    if "adapter_conditioning_factor" in task.arguments and len({control.wanted.end for control in chosen}) > 1:
        raise BadRequest(f"control: {task.pipeline} takes the same end for all maps.", param="control")


def control_of(chosen: ChosenControl, image: MediaFile, float_bytes: int) -> Control:
    """image: the map or photo. float_bytes: of the model's precision. Raises `BadRequest` when the files are gone."""
    wanted = chosen.wanted
    return Control(
        image=image,
        adapter=None if chosen.adapter is None else adapter_of(chosen.adapter, float_bytes),
        preprocessor=chosen.preprocessor,
        mode=chosen.mode,
        strength=wanted.strength,
        start=wanted.start,
        end=wanted.end,
    )


def _choose(
    i: int,
    wanted: WantedControl,
    spec: ModelSpec,
    find: Callable[[str], ModelSpec],
    all_specs: Sequence[ModelSpec],
) -> ChosenControl:
    kind = None if wanted.type is None else canonical_type(wanted.type)
    if wanted.type is not None and kind is None:
        raise _bad(i, "type", f"must be one of {', '.join(SPELLINGS)}")
    adapter = _adapter(i, wanted, kind, spec, find, all_specs)
    mode = None
    if adapter is not None and adapter.control_modes:
        if kind is None:
            raise _bad(i, "type", f"is needed by {adapter.name}: one of {', '.join(adapter.control_modes)}")
        mode = adapter.control_modes[kind]
    return ChosenControl(wanted, adapter, mode, _preprocessor(i, wanted, kind))


def _adapter(
    i: int,
    wanted: WantedControl,
    kind: str | None,
    spec: ModelSpec,
    find: Callable[[str], ModelSpec],
    all_specs: Sequence[ModelSpec],
) -> ModelSpec | None:
    fitting = sorted((other for other in all_specs if other.adapter in CONTROLS and fits(other, spec)), key=_name)
    if wanted.model is None:
        if any("control" in task.inputs and not task.lent for task in spec.tasks):
            return None
        able = [other for other in fitting if kind in other.control_types]
        if not able:
            raise _bad(i, "type", f"{kind}: no ControlNet here follows it for {spec.name}. {_those(fitting, spec)}")
        return min(able, key=lambda other: len(other.control_types))  # one for this type alone first
    try:
        adapter = find(wanted.model)
    except StillRead as error:
        raise ModelStillRead(error.message) from None
    except ModelsError as error:
        raise _bad(i, "model", f"is not a model here. {_those(fitting, spec)}") from error
    if adapter.adapter not in CONTROLS:
        raise _bad(i, "model", f"{adapter.name} is no ControlNet or T2I-Adapter. {_those(fitting, spec)}")
    if (reason := misfit(adapter, spec)) is not None:
        raise _bad(i, "model", f"{adapter.name} {reason}. {_those(fitting, spec)}")
    if kind is not None and adapter.control_types and kind not in adapter.control_types:
        raise _bad(i, "type", f"must be one of {', '.join(adapter.control_types)} for {adapter.name}")
    return adapter


def _preprocessor(i: int, wanted: WantedControl, kind: str | None) -> str | None:
    name = wanted.preprocessor
    if name is None:
        return AUTO_CANNY if kind == "canny" else None
    if name in SAME_AS_NONE:
        return "none"
    if name not in PREPROCESSORS:
        raise _bad(i, "preprocessor", f"must be one of {', '.join(PREPROCESSORS)}; other maps are made by the client")
    return name


def _name(spec: ModelSpec) -> str:
    return spec.name


def _those(fitting: Sequence[ModelSpec], spec: ModelSpec) -> str:
    """Names the adapters that fit, with the kinds of maps that they follow."""
    if not fitting:
        return f"None here fits {spec.name}"
    named = [f"{each.name} ({', '.join(each.control_types)})" if each.control_types else each.name for each in fitting]
    return f"Those that fit {spec.name}: {', '.join(named[:MAX_NAMED])}"


def _bad(i: int, field: str, text: str) -> BadRequest:
    return BadRequest(f"control[{i}].{field} {text}.", param=f"control[{i}].{field}")
