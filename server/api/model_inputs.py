"""The JSON of what a model takes: text, pictures and clips, by the pipeline classes that its modules make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from models.adapters.fit import fits, takes_class
from models.checkpoint.pipeline_inputs import INPUT_NAMES
from models.spec import ModelSpec
from pipelines.diffusion_interface import PipelineTask
from server.api.model_details import plain
from server.api.wire import JsonObject, Reply
from server.jobs.request.task_choice import takes_strength

Input: TypeAlias = Literal["text", "image", "mask", "images", "last_image", "video", "control"]


class TaskReply(Reply):
    pipeline: str
    inputs: list[Input]
    required: list[Input]
    strength: bool


def inputs_json(spec: ModelSpec, models: Sequence[ModelSpec]) -> JsonObject:
    """models: all of the catalogue: a task that borrows a ControlNet counts where one is here that fits."""
    if spec.type == "adapter":
        return {"inputs": [], "requiredInputs": [], "tasks": []}
    if not spec.is_diffusion:
        return {"inputs": ["text", "image"] if spec.takes_images else ["text"], "requiredInputs": [], "tasks": []}
    tasks = [task for task in spec.tasks if not task.lent or _has_adapter(task, spec, models)]
    taken = {name for task in tasks for name in task.inputs}
    return {
        "inputs": [*_prompt(spec), *(name for name in INPUT_NAMES if name in taken)],
        "requiredInputs": _smallest([task.required for task in tasks]),
        "tasks": [
            {
                "pipeline": plain(task.pipeline),
                "inputs": [name for name in INPUT_NAMES if name in task.inputs],
                "required": [name for name in INPUT_NAMES if name in task.required],
                "strength": takes_strength(task),
            }
            for task in tasks
        ],
    }


def _prompt(spec: ModelSpec) -> list[str]:
    """What only animates or enlarges a picture reads no prompt."""
    return ["text"] if not spec.arguments or "prompt" in spec.arguments else []


def _has_adapter(task: PipelineTask, spec: ModelSpec, models: Sequence[ModelSpec]) -> bool:
    return any(
        other.adapter_class is not None and takes_class(task, other.adapter_class) and fits(other, spec)
        for other in models
    )


def _smallest(sets: Sequence[frozenset[str]]) -> list[list[str]]:
    """The sets that contain no other; none where a prompt alone is enough. Each of them is enough."""
    smallest = dict.fromkeys(each for each in sets if not any(other < each for other in sets))
    return [[name for name in INPUT_NAMES if name in each] for each in smallest if each]
