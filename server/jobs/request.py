"""Resolves a generate request: fills in the model's defaults, checks the model's limits, builds the engine's job.

Pure functions, except that they read LoRA files. The stored form (`JobRow.request`) holds everything that is needed
to build the same engine job again after a crash.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from models.errors import ModelsError
from models.lora_compatibility import may_fit
from models.lora_files import held_bytes
from models.spec import ModelSpec
from pipelines.diffusion_interface import DiffusionRequest, Fit, Lora, MediaFile
from pipelines.step_schedule import Speed
from server.errors import BadRequest
from server.job import Job
from server.jobs.encoding import MAX_SIDE, Format, ImageFormat, VideoFormat
from server.jobs.output_size import AspectRatio, clip_length, output_size
from server.store.jobs import JobRow

MAX_SEED = 2**63 - 1
RANDOM_SEED_LIMIT = 2**48  # random seeds are smaller, so that clients whose numbers are doubles see them exactly
DEFAULT_STEPS = 50  # for models without their own default; the value of stock diffusers pipelines

FindLora: TypeAlias = Callable[[str], Path]  # LoRA name → its file; raises `ModelsError`


Media: TypeAlias = str  # an id of an uploaded file, an id of an output of one's own jobs, or a data URL


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedControl:
    image: Media
    type: str | None = None  # "canny", "depth" …: which ControlNet, or which mode of one that has several
    model: str | None = None  # name of a ControlNet; None: the one for this type that fits the model
    preprocessor: str | None = None
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedImagePrompt:
    images: tuple[Media, ...]
    model: str | None = None  # name of an IP-Adapter; None: the one that fits the model
    strength: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedUpscale:
    model: str | None = None  # name of an upscaler; None: the first one
    scale: float | None = None  # None: the upscaler's own


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """A request as the client sent it; None: not given. The fields of the other type are never given."""

    prompt: str
    type: Literal["image", "video"]
    model: str | None = None
    aspect_ratio: AspectRatio | None = None
    duration: int | None = None  # seconds
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    width: int | None = None  # pixels
    height: int | None = None  # pixels
    num_frames: int | None = None
    n: int = 1
    output_format: ImageFormat | VideoFormat | None = None
    deterministic: bool = False
    webhook_url: str | None = None
    scheduler: str | None = None  # class name
    clip_skip: int | None = None  # layers
    loras: tuple[tuple[str, float], ...] = ()  # name, weight
    preview: bool = False
    speed: Speed = "exact"
    image: Media | None = None
    mask: Media | None = None  # white is repainted
    # Only the part of the picture around the mask is made, at full resolution, with so many pixels more on each side.
    mask_padding: int | None = None
    strength: float | None = None
    images: tuple[Media, ...] = ()  # references, in order
    last_image: Media | None = None
    video: Media | None = None
    control: tuple[WantedControl, ...] = ()
    ip_adapter: tuple[WantedImagePrompt, ...] = ()
    upscale: WantedUpscale | None = None
    fit: Fit = "crop"
    vae: str | None = None  # name of an adapter
    textual_inversions: tuple[str, ...] = ()  # names of adapters
    remixed_from: str | None = None  # the job whose clip this one changes or repeats; clients are told, nothing else

    @property
    def media(self) -> dict[str, Media]:
        """The pictures and clips by the place in the request that an error names: "image", "control[0].image"."""
        found = {name: getattr(self, name) for name in ("image", "mask", "last_image", "video")}
        found |= {f"images[{i}]": image for i, image in enumerate(self.images)}
        found |= {f"control[{i}].image": control.image for i, control in enumerate(self.control)}
        for i, prompt in enumerate(self.ip_adapter):
            found |= {f"ip_adapter[{i}].images[{j}]": image for j, image in enumerate(prompt.images)}
        return {place: media for place, media in found.items() if media is not None}

    def with_media(self, replaced: Mapping[Media, Media]) -> GenerateRequest:
        """The same request with other texts for its pictures and clips."""
        names = ("image", "mask", "last_image", "video")
        single: dict[str, Any] = {name: replaced[media] for name in names if (media := getattr(self, name)) is not None}
        return replace(
            self,
            **single,
            images=tuple(replaced[image] for image in self.images),
            control=tuple(replace(control, image=replaced[control.image]) for control in self.control),
            ip_adapter=tuple(
                replace(prompt, images=tuple(replaced[image] for image in prompt.images)) for prompt in self.ip_adapter
            ),
        )


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    request: dict[str, Any]  # JSON: everything that is needed to run the job
    params: dict[str, Any]  # JSON: the parameters as the client sees them


def resolve(
    request: GenerateRequest,
    spec: ModelSpec,
    *,
    drawn_seed: int,
    auto_dtype: str,
    priority: int,
    find_lora: FindLora | None = None,
    files: Mapping[str, MediaFile] = {},
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
    width, height = output_size(request.width, request.height, request.aspect_ratio, spec)
    _check_supported(request, spec)
    guidance, call = _guidance(request, spec)
    negative = request.negative_prompt if request.negative_prompt is not None else spec.defaults.negative_prompt
    if not negative and not _supports(spec, "negative_prompt"):
        negative = None
    num_frames, fps = (
        clip_length(request.num_frames, request.duration, spec) if request.type == "video" else (None, None)
    )
    fmt: Format = request.output_format or ("png" if request.type == "image" else "mp4")
    _check_format(fmt, width, height)
    dtype = auto_dtype if spec.dtype == "auto" else spec.dtype
    stored = {
        "prompt": request.prompt,
        "negative_prompt": negative,
        "width": width,
        "height": height,
        "num_frames": num_frames,
        "fps": fps,
        "steps": steps,
        "guidance_scale": guidance,
        "guidance_argument": spec.guidance_argument,
        "asked": [name for name in ("guidance_scale", "steps") if getattr(request, name) is not None],
        "seed": seed,
        "n": request.n,
        "deterministic": request.deterministic,
        "call": call,
        "output_format": fmt,
        "priority": priority,
        "webhook_url": request.webhook_url,
        "checkpoint": None if spec.path is None else str(spec.path),
        "scheduler": _scheduler(request, spec),
        "clip_skip": _clip_skip(request, spec),
        "loras": _loras(request, spec, dtype, find_lora),
        "preview": request.preview,
        "speed": request.speed,
        "remixed_from": request.remixed_from,
    }
    return ResolvedRequest(stored, _params(stored, dtype))


def _check_supported(request: GenerateRequest, spec: ModelSpec) -> None:
    """Raises `BadRequest` for an argument that the pipeline does not have. An empty negative prompt is allowed."""
    for name, argument, value in (
        ("negative_prompt", "negative_prompt", request.negative_prompt or None),
        ("guidance_scale", spec.guidance_argument, request.guidance_scale),
        ("steps", "num_inference_steps", request.steps),
    ):
        if value is not None and not _supports(spec, argument):
            raise BadRequest(f"{name}: {spec.name} does not support this parameter.")


def _check_format(fmt: Format, width: int, height: int) -> None:
    limit = MAX_SIDE.get(fmt)
    if limit is not None and max(width, height) > limit:
        raise BadRequest(
            f"output_format: {fmt} holds at most {limit} pixels a side, this output has {width}x{height}. "
            f"Send another output_format or a smaller size."
        )


def _supports(spec: ModelSpec, argument: str) -> bool:
    return not spec.arguments or argument in spec.arguments


def _guidance(request: GenerateRequest, spec: ModelSpec) -> tuple[float | None, dict[str, object]]:
    """The guidance, and the further arguments of the call without it: models.toml may set it among these."""
    call = dict(spec.call)
    of_entry = call.get(spec.guidance_argument)
    if request.guidance_scale is not None or isinstance(of_entry, int | float):
        call.pop(spec.guidance_argument, None)
    if request.guidance_scale is not None:
        return request.guidance_scale, call
    return of_entry if isinstance(of_entry, int | float) else spec.defaults.guidance_scale, call


def _scheduler(request: GenerateRequest, spec: ModelSpec) -> str | None:
    if request.scheduler is None:
        return spec.defaults.scheduler
    if request.scheduler in spec.schedulers:
        return request.scheduler
    if not spec.schedulers:
        raise BadRequest(f"scheduler: the scheduler of {spec.name} cannot be changed.")
    raise BadRequest(f"scheduler must be one of {', '.join(spec.schedulers)} for {spec.name}.")


def _clip_skip(request: GenerateRequest, spec: ModelSpec) -> int | None:
    clip_skip = request.clip_skip if request.clip_skip is not None else spec.defaults.clip_skip
    if clip_skip and not spec.max_clip_skip:
        raise BadRequest(f"clip_skip: {spec.name} has no CLIP layers that can be skipped.")
    if clip_skip and clip_skip > spec.max_clip_skip:
        raise BadRequest(f"clip_skip must be at most {spec.max_clip_skip} for {spec.name}.")
    return clip_skip or None


def _loras(request: GenerateRequest, spec: ModelSpec, dtype: str, find: FindLora | None) -> list[dict[str, Any]]:
    """The LoRAs with their files, so that the job runs with the files it was accepted with."""
    if not request.loras:
        return []
    if not spec.takes_loras:
        raise BadRequest(f"loras: {spec.name} does not support LoRAs.")
    if find is None:
        raise BadRequest("loras: this server has no LoRAs.")
    names = [unicodedata.normalize("NFC", name) for name, _ in request.loras]
    if len(set(names)) < len(names):
        raise BadRequest("loras: each LoRA may be listed only once.")
    try:
        found = [(name, find(name), weight) for name, (_, weight) in zip(names, request.loras, strict=True)]
        for name, path, _ in found:
            if spec.path is not None and not may_fit(path, spec.path):
                raise BadRequest(f"loras: {name} matches no layer of {spec.name}: it was made for another model.")
        float_bytes = 4 if dtype == "float32" else 2
        return [
            {
                "name": name,
                "path": str(path),
                "weight": weight,
                "stamp": path.stat().st_mtime_ns,
                "n_bytes": held_bytes(path, float_bytes),
            }
            for name, path, weight in found
        ]
    except OSError as error:
        raise BadRequest("loras: a LoRA file was removed during the request.") from error
    except ModelsError as error:
        raise BadRequest(f"loras: {error.message}") from error


def _params(stored: dict[str, Any], dtype: str) -> dict[str, Any]:
    params = {
        "width": stored["width"],
        "height": stored["height"],
        "steps": stored["steps"],
        "guidanceScale": stored["guidance_scale"],
        "negativePrompt": stored["negative_prompt"],
        "seed": stored["seed"],
        "n": stored["n"],
        "scheduler": stored["scheduler"],  # None: known once the job has run
        "clipSkip": stored["clip_skip"],
        "dtype": dtype,
        "deterministic": stored["deterministic"],
        "speed": stored["speed"],
        "outputFormat": stored["output_format"],
        "call": stored["call"],
        "loras": [{"name": lora["name"], "weight": lora["weight"]} for lora in stored["loras"]],
    }
    if stored["fps"] is not None:
        frames, fps = stored["num_frames"], stored["fps"]
        params |= {"numFrames": frames, "fps": fps, "durationSeconds": round(frames / fps, 3)}
    if stored["remixed_from"] is not None:
        params["remixedFrom"] = stored["remixed_from"]
    return params


def engine_job(row: JobRow) -> Job:
    """Builds the engine's job from a stored one: the same each time, seeds included."""
    request = row.request
    return Job(
        id=row.id,
        owner=row.key_id,
        type=row.type,
        model=row.model,
        priority=request["priority"],
        requests=tuple(
            DiffusionRequest(
                id=f"{row.id}/{index}",
                owner=row.key_id,
                prompt=request["prompt"],
                negative_prompt=request["negative_prompt"],
                width=request["width"],
                height=request["height"],
                num_frames=request["num_frames"],
                fps=request["fps"],
                steps=request["steps"],
                guidance_scale=request["guidance_scale"],
                guidance_argument=request.get("guidance_argument", "guidance_scale"),
                seed=request["seed"] + index,
                deterministic=request["deterministic"],
                preview=request.get("preview", False) and index == 0,
                call=request["call"],
                scheduler=request.get("scheduler"),  # absent in jobs that older versions stored
                speed=request.get("speed", "exact"),
                clip_skip=request.get("clip_skip"),
                loras=tuple(Lora(**lora) for lora in request.get("loras", ())),
                asked=tuple(request.get("asked", ())),
            )
            for index in range(request["n"])
        ),
    )
