"""Names the fields of a request that changed nothing, so that a client is told. Pure functions. Device thread only.

They look at the request's own copy of the pipeline after its call: whether stock code used classifier-free guidance is
known then, whatever made it decide.
"""

from __future__ import annotations

import inspect
import re
from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from pipelines.diffusion_interface import DiffusionRequest

TRUE_CFG = "true_cfg_scale"
ABOVE_ONE = re.compile(r"\bguidance_scale > 1(?:\.0)?\b")
MULTIPLIED = re.compile(r"guidance_scale\s*\*|\*\s*(?:self\.)?_?guidance_scale")
SCHEDULES = ("sigmas", "timesteps")  # arguments of a call that replace its number of steps


def without_effect(own: Any, arguments: dict[str, Any], request: DiffusionRequest) -> list[str]:
    """own: the request's copy of the pipeline, after its call. arguments: those of the call."""
    guided, found = _guided(own, arguments, request), []
    name, scale = request.guidance_argument, arguments.get(request.guidance_argument)
    on = isinstance(scale, int | float) and scale > 1
    if request.negative_prompt and guided is False:
        if TRUE_CFG in _parameters(type(own)):
            which = "a guidance_scale" if name == TRUE_CFG else "a call.true_cfg_scale in the model's entry"
            found.append(f"negative_prompt has no effect: this model needs {which} above 1 for it.")
        elif on:
            found.append("negative_prompt has no effect: this model is distilled and runs without it.")
        else:
            found.append(f"negative_prompt has no effect at guidance_scale {scale:g}." if scale is not None else
                         "negative_prompt has no effect on this model.")  # fmt: skip
    if "guidance_scale" in request.asked and on:
        if name == TRUE_CFG and guided is False:
            found.append("guidance_scale has no effect without a negative_prompt, which may be empty.")
        elif name != TRUE_CFG and _scale_is_dropped(own, guided):
            found.append("guidance_scale has no effect: this model is distilled and runs without it.")
    if "steps" in request.asked and (fixed := next((key for key in SCHEDULES if key in request.call), None)):
        found.append(f"steps has no effect: the model's entry sets call.{fixed}.")
    return found


def other_size(frames: NDArray[Any], request: DiffusionRequest) -> list[str]:
    """Where stock code has made another size than it was called for. frames: (F, H, W, C)."""
    found, (n_frames, height, width) = [], frames.shape[:3]
    if (width, height) != (request.width, request.height):
        found.append(f"The output has {width}x{height} pixels instead of {request.width}x{request.height}.")
    if request.num_frames is not None and n_frames != request.num_frames:
        found.append(f"The clip has {n_frames} frames instead of {request.num_frames}.")
    return found


def _guided(own: Any, arguments: dict[str, Any], request: DiffusionRequest) -> bool | None:
    """Whether the call used classifier-free guidance, and so a negative prompt; None: not known."""
    parameters, cls = _parameters(type(own)), type(own)
    if TRUE_CFG in parameters:
        scale = arguments.get(TRUE_CFG, parameters[TRUE_CFG].default)
        return isinstance(scale, int | float) and scale > 1 and request.negative_prompt is not None
    if _decides_by_scale(getattr(cls, "do_classifier_free_guidance", None)):
        try:
            return bool(own.do_classifier_free_guidance)
        except (AttributeError, TypeError, ValueError, RuntimeError):  # of another kind than a number
            return None
    if "guidance_scale" not in parameters or not _compares_with_one(cls):
        return None
    scale = arguments.get("guidance_scale", parameters["guidance_scale"].default)
    others = [name for name in parameters if name.endswith("guidance_scale") and name != "guidance_scale"]
    return scale > 1 if isinstance(scale, int | float) and not others else None


def _scale_is_dropped(own: Any, guided: bool | None) -> bool:
    """Whether the scale neither guided the call nor went into the denoiser. False where that is not known."""
    of_transformer, of_unet = _config(own, "transformer", "guidance_embeds"), _config(own, "unet", "time_cond_proj_dim")
    if guided is False:  # the denoiser may still have been distilled to take the scale as an input
        return not (of_transformer or of_unet)
    return guided is None and of_transformer is False and not _multiplies(type(own))


def _config(own: Any, component: str, key: str) -> Any:
    return dict(getattr(getattr(own, component, None), "config", None) or {}).get(key)


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls.__call__).parameters)


@lru_cache(maxsize=64)
def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # a class without a source file
        return ""


def _decides_by_scale(member: object) -> bool:
    """Whether it is a property that reads the scale; some classes have one that is always false and not used."""
    return isinstance(member, property) and "guidance_scale" in _source(member.fget)


def _compares_with_one(cls: type) -> bool:
    return ABOVE_ONE.search(_source(cls.__call__)) is not None


def _multiplies(cls: type) -> bool:
    return MULTIPLIED.search(_source(cls.__call__)) is not None
