"""Resolves a generate request: chooses the pipeline class, fills in the model's defaults, checks the model's limits.

Pure functions, except that they read the files of LoRAs and adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from models.checkpoint.pipeline_source import FRAME_COUNTS
from models.errors import UnknownModel
from models.spec import ModelSpec
from pipelines.diffusion_interface import (
    ENLARGES,
    ImagePrompt,
    Inputs,
    MediaFile,
    PipelineTask,
    Upscaling,
)
from server.errors import BadRequest
from server.jobs.encoding import MAX_SIDE, Format
from server.jobs.request.adapters import adapter_of, choose_adapter
from server.jobs.request.controls import ChosenControl, check_controls, choose_controls, control_of, tasks_for
from server.jobs.request.generate_request import DEFAULT_STEPS, MAX_SEED, GenerateRequest
from server.jobs.request.loras import FindLora, choose_loras
from server.jobs.request.options import (
    check_supported,
    clip_skip_of,
    guidance_argument_of,
    guidance_of,
    scheduler_of,
    takes,
)
from server.jobs.request.output_size import clip_length, clip_length_like, cut_off, output_size
from server.jobs.request.stored_request import Json, client_params, stored_inputs
from server.jobs.request.task_choice import check_files, check_inputs, choose_task, own_task, resolved_strength
from server.jobs.request.upscaled_size import enlarged, upscaler_length, upscaler_size, upscaler_steps

CROP_ARGUMENT = "padding_mask_crop"  # of inpainting classes: only the part around the mask is made
MAY_BE_CUT = 0.05  # the part of a picture that is cut off without a word, because sizes are on a grid
# Classes that change a clip frame by frame; other classes with a number of frames go on after the clip.
FRAME_BY_FRAME = re.compile(r"Edit|VACE")


class Models(Protocol):
    """The catalogue."""

    def get(self, name: str, /) -> ModelSpec:
        """Raises `models.errors.ModelsError`."""

    def specs(self) -> Sequence[ModelSpec]: ...


class _NoModels:
    def get(self, name: str, /) -> ModelSpec:
        raise UnknownModel(f"There is no model {name}.")

    def specs(self) -> Sequence[ModelSpec]:
        return ()


NO_MODELS: Models = _NoModels()


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    request: Json  # everything that is needed to run the job
    params: Json  # the parameters as the client sees them
    warnings: tuple[str, ...] = ()  # sentences about what is not as the client may expect


def resolve(
    request: GenerateRequest,
    spec: ModelSpec,
    *,
    drawn_seed: int,
    auto_dtype: str,
    priority: int,
    find_lora: FindLora | None = None,
    files: Mapping[str, MediaFile] = {},
    models: Models = NO_MODELS,
) -> ResolvedRequest:
    """Resolves a request for a model of its type. Raises `BadRequest` with the field and the values that are allowed.

    drawn_seed: a random seed, used when the request has none. auto_dtype: of models whose dtype is "auto".
    files: the pictures and clips by their places in `request.media`.
    """
    steps = request.steps if request.steps is not None else (spec.defaults.steps or DEFAULT_STEPS)
    if steps > spec.limits.max_steps:
        raise BadRequest(f"steps must be at most {spec.limits.max_steps} for {spec.name}.")
    seed = request.seed if request.seed is not None else drawn_seed
    if seed > MAX_SEED - (request.n - 1):
        raise BadRequest(f"seed must be at most {MAX_SEED} - (n - 1), because output i has seed + i.")
    dtype = auto_dtype if spec.dtype == "auto" else spec.dtype
    float_bytes = 4 if dtype == "float32" else 2
    check_inputs(request, spec, models.specs())
    controls = choose_controls(request.control, spec, models.get, models.specs())
    task = choose_task(request, spec, tasks_for(controls, spec) if spec.tasks else [own_task(spec)])
    check_controls(controls, task)
    check_supported(request, spec, task)
    check_files(files, request.type, spec, task)
    num_frames, fps = _length(request, spec, task, files)
    followed, only_enlarges = _followed(request, files), spec.adapter == "upscaler"
    if only_enlarges:
        assert followed is not None, "it is required"
        size = upscaler_size(request, spec, followed, num_frames)
        steps = upscaler_steps(request, size, followed, num_frames)
    else:
        size = output_size(
            request.width,
            request.height,
            request.aspect_ratio,
            spec,
            like=followed,
            enlarges=ENLARGES.get(task.pipeline, 1),
        )
    upscaling = _upscaling(request, spec, size, num_frames, models, float_bytes)
    fmt: Format = request.output_format or ("png" if request.type == "image" else "mp4")
    _check_format(fmt, *((upscaling.width, upscaling.height) if upscaling is not None else size))
    guidance_argument = guidance_argument_of(spec, task)
    guidance, call, warnings = guidance_of(request, spec, task, guidance_argument)
    if request.mask_padding is not None:
        if takes(task, CROP_ARGUMENT):
            call[CROP_ARGUMENT] = request.mask_padding
        else:
            warnings.append(f"{task.pipeline} makes the whole picture, not only the part around the mask.")
    if not takes(task, "prompt") and request.prompt:
        warnings.append(f"{spec.name} takes no prompt: it was not used.")
    inputs = _inputs(request, spec, controls, files, models, float_bytes)
    negative = request.negative_prompt if request.negative_prompt is not None else spec.defaults.negative_prompt
    has_inputs = inputs != Inputs()
    stored: Json = {
        "prompt": request.prompt,
        "negative_prompt": negative if takes(task, "negative_prompt") else None,
        "width": size[0],
        "height": size[1],
        "num_frames": num_frames,
        "fps": fps,
        "steps": steps,
        "guidance_scale": guidance,
        "guidance_argument": guidance_argument,
        "asked": [name for name in ("guidance_scale", "steps") if getattr(request, name) is not None],
        "seed": seed,
        "n": request.n,
        "deterministic": request.deterministic,
        "call": call,
        "output_format": fmt,
        "priority": priority,
        "webhook_url": request.webhook_url,
        "checkpoint": None if spec.path is None else str(spec.path),
        "scheduler": scheduler_of(request, spec),
        "clip_skip": clip_skip_of(request, spec, task),
        "loras": choose_loras(request, spec, float_bytes, find_lora),
        "preview": request.preview,
        "speed": "exact" if only_enlarges else request.speed,  # no tile can be told from another
        "remixed_from": request.remixed_from,
        "pipeline": task.pipeline if has_inputs else None,
        "inputs": stored_inputs(inputs),
        "input_arguments": dict(task.inputs) if has_inputs else {},
        "strength": resolved_strength(request, task, steps),
        "fit": request.fit,
        "upscaling": None if upscaling is None else asdict(upscaling),
        **_other_adapters(request, spec, models, float_bytes),
    }
    warnings += _cut_warnings(request, files, size)
    return ResolvedRequest(stored, client_params(stored, dtype), tuple(warnings))


# Sizes


def _followed(request: GenerateRequest, files: Mapping[str, MediaFile]) -> MediaFile | None:
    """The picture or clip whose size the output has unless the request says otherwise.

    Of references alone, the first picture that an image is made from; a clip has them beside its own frames.
    """
    places = ["image", "video", "control[0].image", "last_image"]
    places += ["images[0]"] if request.type == "image" else []
    return next((files[place] for place in places if place in files), None)


def _length(
    request: GenerateRequest, spec: ModelSpec, task: PipelineTask, files: Mapping[str, MediaFile]
) -> tuple[int | None, int | None]:
    if request.type != "video":
        return None, None
    if spec.adapter == "upscaler":
        return upscaler_length(request, spec, files["video"])
    if task.frames is not None:
        multiple, remainder = task.frames
        limits = replace(spec.limits, frames_multiple=multiple, frames_remainder=remainder)
        spec = replace(spec, limits=limits)
    clip = files.get("video") or next((file for file in files.values() if file.num_frames > 1), None)
    counts_frames = not task.arguments.isdisjoint((*FRAME_COUNTS, "frames"))
    goes_on = counts_frames and "control" not in task.inputs and not FRAME_BY_FRAME.search(task.pipeline)
    if clip is None or goes_on or request.num_frames is not None or request.duration is not None:
        return clip_length(request.num_frames, request.duration, spec)
    return clip_length_like(clip, spec)


def _cut_warnings(request: GenerateRequest, files: Mapping[str, MediaFile], size: tuple[int, int]) -> list[str]:
    if request.fit != "crop":
        return []
    return [
        f"{place} is {file.width}x{file.height}, the output {size[0]}x{size[1]}: {part:.0%} of it was cut off. "
        'fit can be "pad" or "stretch".'
        for place, file in files.items()
        if place in ("image", "video", "last_image") or place.startswith("control")
        if (part := cut_off(file, *size)) > MAY_BE_CUT
    ]


def _check_format(fmt: Format, width: int, height: int) -> None:
    limit = MAX_SIDE.get(fmt)
    if limit is not None and max(width, height) > limit:
        raise BadRequest(
            f"output_format: {fmt} holds at most {limit} pixels a side, this output has {width}x{height}. "
            f"Send another output_format or a smaller size."
        )


# Inputs and adapters


def _inputs(
    request: GenerateRequest,
    spec: ModelSpec,
    controls: Sequence[ChosenControl],
    files: Mapping[str, MediaFile],
    models: Models,
    float_bytes: int,
) -> Inputs:
    prompts = []
    for i, wanted in enumerate(request.ip_adapter):
        found = choose_adapter(f"ip_adapter[{i}].model", wanted.model, "ip_adapter", spec, models.get, models.specs())
        pictures = tuple(files[f"ip_adapter[{i}].images[{j}]"] for j in range(len(wanted.images)))
        prompts.append(ImagePrompt(pictures, adapter_of(found, float_bytes), wanted.strength))
    return Inputs(
        image=files.get("image"),
        mask=files.get("mask"),
        images=tuple(files[f"images[{i}]"] for i in range(len(request.images))),
        last_image=files.get("last_image"),
        video=files.get("video"),
        controls=tuple(
            control_of(chosen, files[f"control[{i}].image"], float_bytes) for i, chosen in enumerate(controls)
        ),
        image_prompts=tuple(prompts),
    )


def _upscaling(
    request: GenerateRequest,
    spec: ModelSpec,
    size: tuple[int, int],
    num_frames: int | None,
    models: Models,
    float_bytes: int,
) -> Upscaling | None:
    wanted = request.upscale
    if wanted is None or (spec.adapter == "upscaler" and wanted.model in (None, spec.name)):
        return None  # an upscaler's own job makes the size that is wanted itself
    found = choose_adapter("upscale.model", wanted.model, "upscaler", spec, models.get, models.specs())
    scale = wanted.scale or found.scale
    assert scale is not None, "the catalogue refuses an upscaler without"
    width, height = enlarged(size, scale, spec, num_frames, "upscale.scale")
    return Upscaling(adapter_of(found, float_bytes), width, height)


def _other_adapters(request: GenerateRequest, spec: ModelSpec, models: Models, float_bytes: int) -> Json:
    def stored(field: str, name: str, kind: Any) -> Json:
        return asdict(adapter_of(choose_adapter(field, name, kind, spec, models.get, models.specs()), float_bytes))

    if len(set(request.textual_inversions)) < len(request.textual_inversions):
        raise BadRequest("textual_inversions names one more than once.", param="textual_inversions")
    return {
        "vae": None if request.vae is None else stored("vae", request.vae, "vae"),
        "textual_inversions": [
            stored(f"textual_inversions[{i}]", name, "textual_inversion")
            for i, name in enumerate(request.textual_inversions)
        ],
    }
