"""Checks the options of a request against the arguments of its pipeline class, and fills in those of the model.

Pure functions. They raise `BadRequest` with the field and the values that are allowed.
"""

from __future__ import annotations

from models.spec import ModelSpec
from pipelines.diffusion_interface import PipelineTask
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest
from server.jobs.request.task_choice import own_task


def takes(task: PipelineTask, argument: str) -> bool:
    return not task.arguments or argument in task.arguments


def check_supported(request: GenerateRequest, spec: ModelSpec, task: PipelineTask) -> None:
    """Raises `BadRequest` for an argument that the pipeline does not have. An empty negative prompt is allowed."""
    for name, argument, value in (
        ("negative_prompt", "negative_prompt", request.negative_prompt or None),
        ("guidance_scale", guidance_argument_of(spec, task), request.guidance_scale),
        ("steps", "num_inference_steps", request.steps),
    ):
        if value is not None and not takes(task, argument):
            raise BadRequest(f"{name}: {spec.name} does not support this parameter.")


def guidance_argument_of(spec: ModelSpec, task: PipelineTask) -> str:
    """That of the checkpoint; a relative of its class may know only the usual one."""
    usual = "guidance_scale"
    return usual if not takes(task, spec.guidance_argument) and takes(task, usual) else spec.guidance_argument


def guidance_of(
    request: GenerateRequest, spec: ModelSpec, task: PipelineTask, argument: str
) -> tuple[float | None, dict[str, object], list[str]]:
    """The guidance, the further arguments of the call without it, and warnings: models.toml may set it among these."""
    call = dict(spec.call)
    of_entry = call.get(spec.guidance_argument)
    if request.guidance_scale is not None or isinstance(of_entry, int | float):
        call.pop(spec.guidance_argument, None)
    not_taken = [name for name in call if task != own_task(spec) and not takes(task, name)]
    warnings = [f"{task.pipeline} takes no {name}, which the entry of {spec.name} sets." for name in not_taken]
    call = {name: value for name, value in call.items() if name not in not_taken}
    if request.guidance_scale is not None:
        return request.guidance_scale, call, warnings
    guidance = of_entry if isinstance(of_entry, int | float) else spec.defaults.guidance_scale
    return guidance if takes(task, argument) else None, call, warnings


def scheduler_of(request: GenerateRequest, spec: ModelSpec) -> str | None:
    if request.scheduler is None:
        return spec.defaults.scheduler
    if request.scheduler in spec.schedulers:
        return request.scheduler
    if not spec.schedulers:
        raise BadRequest(f"scheduler: the scheduler of {spec.name} cannot be changed.")
    raise BadRequest(f"scheduler must be one of {', '.join(spec.schedulers)} for {spec.name}.")


def clip_skip_of(request: GenerateRequest, spec: ModelSpec, task: PipelineTask) -> int | None:
    clip_skip = request.clip_skip if request.clip_skip is not None else spec.defaults.clip_skip
    if clip_skip and not spec.max_clip_skip:
        raise BadRequest(f"clip_skip: {spec.name} has no CLIP layers that can be skipped.")
    if clip_skip and clip_skip > spec.max_clip_skip:
        raise BadRequest(f"clip_skip must be at most {spec.max_clip_skip} for {spec.name}.")
    if clip_skip and not takes(task, "clip_skip"):
        if request.clip_skip is not None:
            raise BadRequest(f"clip_skip: {task.pipeline} does not support this parameter.")
        return None
    return clip_skip or None
