"""Finds out how a model takes the pictures of a request whose dialect does not say it: as the picture that is changed,
with a mask, or as references. Pure functions, except that they read the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from models.spec import ModelSpec
from pipelines.diffusion_interface import PipelineTask
from server.errors import BadRequest
from server.jobs.limits import Catalogue, JobLimits
from server.jobs.request.generate_request import DEFAULT_STEPS, GenerateRequest, Media
from server.jobs.request.task_choice import choose_task, takes_strength

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


def choose_way(
    limits: JobLimits, catalogue: Catalogue, wanted: GenerateRequest, ways: Sequence[Inputs]
) -> tuple[GenerateRequest, PipelineTask | None]:
    """Returns the request with the first of these inputs that its model takes, and the pipeline that does. Without a
    model, it gets the default one, or else the first one that takes any.

    A request whose model takes none gets the first ones and no pipeline: it is refused later, by the names of models
    that do. Raises `UnknownModel`, and `BadRequest` when no model takes any.
    """
    if wanted.model is not None:
        found = taken(limits.model(wanted.model, wanted.type), wanted, ways)
        return found or (replace(wanted, **ways[0]), None)
    default = catalogue.default_for(wanted.type)
    for spec in sorted(catalogue.specs(), key=lambda spec: spec.name != default):
        if spec.type == wanted.type and (found := taken(spec, wanted, ways)) is not None:
            return found
    names = " and ".join(ways[0])
    raise BadRequest(f"There is no {wanted.type} model here that takes {names}. GET /api/models says what each takes.")


def taken(
    spec: ModelSpec, wanted: GenerateRequest, ways: Sequence[Inputs]
) -> tuple[GenerateRequest, PipelineTask] | None:
    """As `choose_way`, for one model; None when it takes none of these inputs."""
    tasks = [task for task in spec.tasks if not task.lent]
    for inputs in ways:
        request = replace(wanted, model=spec.name, **inputs)
        try:
            return request, choose_task(request, spec, tasks)
        except BadRequest:
            continue
    return None


def with_strength(
    request: GenerateRequest, task: PipelineTask | None, strength: float, default_steps: int | None
) -> GenerateRequest:
    """Returns the request with this strength, if the pipeline takes one and the request has none."""
    if task is None or not takes_strength(task) or request.strength is not None:
        return request
    steps = request.steps or default_steps or DEFAULT_STEPS
    return replace(request, strength=max(strength, 1 / steps))  # at least one step is left
