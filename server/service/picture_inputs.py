"""Finds out how a model takes the pictures of a request whose dialect does not say it: as the picture that is changed,
with a mask, or as references. Event loop only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from models.spec import ModelSpec
from pipelines.diffusion_interface import PipelineTask
from server.errors import BadRequest
from server.jobs.limits import Catalogue, JobLimits
from server.jobs.request import Media

Inputs: TypeAlias = Mapping[str, Any]  # fields of a `GenerateRequest`


def ways_to_take(images: Sequence[Media], mask: Media | None = None) -> list[Inputs]:
    """The ways in which a model may take these pictures, the best first: as the picture that is changed, or as
    references. A mask belongs to the first picture.
    """
    first, others = images[0], tuple(images[1:])
    if mask is not None:
        return [{"image": first, "mask": mask, **({"images": others} if others else {})}]
    if others:
        return [{"images": tuple(images)}, {"image": first, "images": others}]
    return [{"image": first}, {"images": (first,)}]


def choose(
    limits: JobLimits,
    catalogue: Catalogue,
    model: str | None,
    kind: Literal["image", "video"],
    ways: Sequence[Inputs],
) -> tuple[ModelSpec, Inputs, PipelineTask | None]:
    """Returns a model and the first way that it takes: the model of that name, or the default one, or the first one
    that takes any. For a named model that takes none, the first way and no task: its request is refused later, with the
    names of models that do.

    Raises `UnknownModel`, and `BadRequest` when no model takes any.
    """
    if model is not None:
        spec = limits.model(model, kind)
        return next(((spec, *found) for found in takes(spec, ways)), (spec, ways[0], None))
    default = catalogue.default_for(kind)
    specs = sorted(catalogue.specs(), key=lambda spec: spec.name != default)
    for spec in specs:
        if spec.type == kind:
            for inputs, task in takes(spec, ways):
                return spec, inputs, task
    names = " and ".join(sorted(ways[0]))
    raise BadRequest(f"There is no {kind} model here that takes {names}. GET /api/models says what each takes.")


def takes(spec: ModelSpec, ways: Sequence[Inputs]) -> list[tuple[Inputs, PipelineTask]]:
    """The ways that the model takes, each with the pipeline that does."""
    return [(inputs, task) for inputs in ways for task in spec.tasks if _takes(task, inputs)]


def _takes(task: PipelineTask, inputs: Inputs) -> bool:
    """Whether the task takes these inputs and needs nothing else. `image` and `images` may be one argument."""
    required = set(task.required)
    if "images" in inputs and task.inputs.get("images") == task.inputs.get("image"):
        required.discard("image")
    return not task.lent and inputs.keys() <= task.inputs.keys() and required <= inputs.keys()
