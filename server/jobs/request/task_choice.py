"""Chooses the pipeline class of a model for the pictures and clips that a request gives. Pure functions.

Errors name the field, and either the models here that can take it or what is missing and how it is sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

from models.checkpoint.pipeline_inputs import CONDITIONS, INPUT_NAMES
from models.checkpoint.pipeline_source import pipeline_source
from models.required_packages import how_to_install, is_installed
from models.spec import ModelSpec
from pipelines.diffusion_interface import InputName, MediaFile, PipelineTask
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest

MAX_NAMED = 5  # models that an error names
MEDIA = "a file id from POST /api/files, the id of an output of one of your jobs, or a data URL"
SEND = {
    "image": "a picture in image",
    "mask": "a mask for inpainting in mask, white where the picture is made anew",
    "images": "pictures in images",
    "last_image": "a picture in last_image",
    "video": "a clip in video",
    "control": "a map in control",
}
LEAST_REFERENCE_SIDE, LONGEST_REFERENCE = 64, 8  # of `Flux2ImageProcessor.check_image_input`
NEED_AV = "LTX2"  # the beginning of classes that compress each picture as a frame of a clip before they read it
OTHER_STRENGTH = ("PIAPipeline",)  # classes whose argument `strength` counts how much the picture moves


def own_task(spec: ModelSpec) -> PipelineTask:
    """The class that the checkpoint was published for."""
    return spec.tasks[0] if spec.tasks else PipelineTask(spec.pipeline or "", arguments=spec.arguments)


def given_inputs(request: GenerateRequest) -> tuple[InputName, ...]:
    return tuple(name for name in INPUT_NAMES if getattr(request, name))


def check_inputs(request: GenerateRequest, spec: ModelSpec, models: Sequence[ModelSpec]) -> None:
    """Raises `BadRequest` for an input that no task of the model takes. models: all models here."""
    for name in given_inputs(request):
        if not any(name in task.inputs for task in spec.tasks):
            raise _not_taken(request, name, spec, models, lambda task, name=name: name in task.inputs)  # type: ignore[misc]
    for field, takes in _options(request):
        if not any(map(takes, spec.tasks)):
            raise _not_taken(request, field, spec, models, takes)
    if request.strength is not None and request.image is None and request.video is None:
        raise BadRequest("strength is of an image or a video that is changed, and there is none.", param="strength")


def choose_task(request: GenerateRequest, spec: ModelSpec, tasks: Sequence[PipelineTask]) -> PipelineTask:
    """The task that takes what the request gives: the checkpoint's own class, else the one that leaves out least.

    tasks: those that may be used, in the order of `spec.tasks`. Raises `BadRequest`.
    """
    given = given_inputs(request)
    taking = [task for task in tasks if task.inputs.keys() >= set(given)]
    if not taking:
        names = " and ".join(given)
        raise BadRequest(f"{names}: {spec.name} takes each of them, but not together.", param=given[-1])
    fitting = [task for task in taking if not missing_inputs(task, given)]
    if not fitting:
        raise _missing(spec, [missing_inputs(task, given) for task in taking])
    for field, takes in _options(request):
        fitting = [task for task in fitting if takes(task)]
        if not fitting:
            raise BadRequest(f"{field}: {spec.name} takes none with {' and '.join(given)}.", param=field)
    own = own_task(spec).pipeline
    chosen = min(fitting, key=lambda task: (task.pipeline != own, len(task.inputs.keys() - set(given))))
    if given and chosen.pipeline.startswith(NEED_AV) and not is_installed("av"):
        raise BadRequest(f"{given[0]}: {chosen.pipeline} needs {how_to_install(['av'])}.", param=given[0])
    return chosen


def missing_inputs(task: PipelineTask, given: Collection[InputName]) -> frozenset[InputName]:
    """The required inputs that are not given. Pictures in `images` count as `image` where one argument takes both."""
    as_image = "images" in given and task.inputs.get("image") == task.inputs.get("images")
    return task.required - set(given) - ({"image"} if as_image else set())


def _options(request: GenerateRequest) -> list[tuple[str, Callable[[PipelineTask], bool]]]:
    """The fields given that are no inputs but that only some tasks take, with what tells whether one does."""
    options = [
        ("strength", request.strength is not None, takes_strength),
        ("ip_adapter", bool(request.ip_adapter), takes_image_prompts),
    ]
    return [(field, takes) for field, is_given, takes in options if is_given]


def takes_image_prompts(task: PipelineTask) -> bool:
    return "ip_adapter_image" in task.arguments


def takes_strength(task: PipelineTask) -> bool:
    """Whether `strength` tells how much of a picture or clip is made anew."""
    changes = "image" in task.inputs or "video" in task.inputs
    other = task.pipeline in OTHER_STRENGTH or CONDITIONS in task.arguments
    return changes and "strength" in task.arguments and not other


def resolved_strength(request: GenerateRequest, task: PipelineTask, steps: int) -> float | None:
    """The strength of the request, else the default of the class; None where there is none.

    Raises `BadRequest` when the class would run no step with it.
    """
    if not takes_strength(task) or (request.image is None and request.video is None):
        return None
    source = pipeline_source(task.pipeline)
    default = source.defaults.get("strength") if source is not None else None
    strength = request.strength
    if strength is None and isinstance(default, int | float):
        strength = float(default)
    rounds_down = source is not None and source.rounds_steps_down
    if strength is not None and (int(steps * strength) < 1 if rounds_down else steps * strength <= 0):
        least = f"at least {math.ceil(1000 / steps) / 1000:g}" if rounds_down else "more than 0"
        raise BadRequest(
            f"strength must be {least} with {steps} step{'s' * (steps > 1)}: otherwise no step is left.",
            param="strength",
        )
    return strength


def check_files(files: Mapping[str, MediaFile], made: str, spec: ModelSpec, task: PipelineTask) -> None:
    """Raises `BadRequest` for a picture or clip that the class of `task` would refuse when it is called.

    files: by their places in the request. made: the type of the output.
    """
    source = pipeline_source(task.pipeline)
    for place, file in files.items():
        field = place.partition("[")[0]
        if field == "control" and made == "image" and file.fps is not None:
            raise BadRequest(f"{place} must be a picture, and not a clip.", param=field)
        if source is None or not source.checks_references or field not in ("image", "images"):
            continue
        short, long = sorted((file.width, file.height))
        if short < LEAST_REFERENCE_SIDE or long > LONGEST_REFERENCE * short:
            raise BadRequest(
                f"{place} must be at least {LEAST_REFERENCE_SIDE} pixels wide and high, and at most "
                f"{LONGEST_REFERENCE} times as long as wide, for {spec.name}; it is {file.width}x{file.height}.",
                param=field,
            )


def _missing(spec: ModelSpec, sets: Sequence[frozenset[InputName]]) -> BadRequest:
    """sets: what each task that takes the given inputs misses."""
    smallest = min(map(len, sets))
    nearest = dict.fromkeys(
        tuple(name for name in INPUT_NAMES if name in each) for each in sets if len(each) == smallest
    )
    wanted = ", or ".join(" and ".join(SEND[name] for name in names) for names in nearest)
    return BadRequest(f"{spec.name} needs more inputs: send {wanted}. Each is {MEDIA}.", param=next(iter(nearest))[0])


def _not_taken(
    request: GenerateRequest,
    field: str,
    spec: ModelSpec,
    models: Sequence[ModelSpec],
    takes: Callable[[PipelineTask], bool],
) -> BadRequest:
    """Names models that take the whole request, else those that take this field of it."""
    given = given_inputs(request)

    def takes_all(task: PipelineTask) -> bool:
        return takes(task) and task.inputs.keys() >= set(given) and not missing_inputs(task, given)

    others = [other for other in models if other.type == spec.type]
    able = [other.name for other in others if any(map(takes_all, other.tasks))]
    able = able or [other.name for other in others if any(map(takes, other.tasks))]
    named = f"Models here that can: {', '.join(able[:MAX_NAMED])}." if able else f"No {spec.type} model here can."
    return BadRequest(f"{field}: {spec.name} does not take this input. {named}", param=field)
