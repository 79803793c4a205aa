"""What a request becomes: every number filled in from the model, checked against its limits, written down. Pure functions.

What is stored (`JobRow.request`) is enough to build the very same engine job again after a crash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from models.errors import ModelsError
from models.lora_compatibility import may_fit
from models.lora_files import held_bytes
from models.spec import ModelSpec
from pipelines.interface import DiffusionRequest, Lora
from server.errors import BadRequest
from server.job import Job
from server.jobs.encoding import Format, ImageFormat, VideoFormat
from server.jobs.output_size import AspectRatio, length, size
from server.store.jobs import JobRow

MAX_SEED = 2**63 - 1
DRAWN_SEEDS = 2**48  # a seed we draw is exact in clients whose numbers are doubles
STEPS = 50  # for checkpoints that say nothing themselves; the value of stock diffusers pipelines

FindLora: TypeAlias = Callable[[str], Path]  # the file of a LoRA by its name; raises ModelsError


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """As the client said it; None is not said. A field of the other type is never said."""

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


@dataclass(frozen=True, slots=True)
class Resolved:
    request: dict[str, Any]  # JSON: what is needed to run it
    params: dict[str, Any]  # JSON: what the client is told


def resolve(
    request: GenerateRequest,
    spec: ModelSpec,
    *,
    drawn_seed: int,
    auto_dtype: str,
    priority: int,
    find_lora: FindLora | None = None,
) -> Resolved:
    """`spec` is of the request's type. Raises `BadRequest` that names the field and what the model takes."""
    steps = request.steps if request.steps is not None else (spec.defaults.steps or STEPS)
    if steps > spec.limits.max_steps:
        raise BadRequest(f"steps must be at most {spec.limits.max_steps} for {spec.name}.")
    seed = request.seed if request.seed is not None else drawn_seed
    if seed > MAX_SEED - (request.n - 1):
        raise BadRequest(f"seed must be at most {MAX_SEED} less n - 1: output i has seed + i.")
    width, height = size(request.width, request.height, request.aspect_ratio, spec)
    _check_taken(request, spec)
    guidance = request.guidance_scale if request.guidance_scale is not None else spec.defaults.guidance_scale
    negative = request.negative_prompt if request.negative_prompt is not None else spec.defaults.negative_prompt
    if not negative and not _takes(spec, "negative_prompt"):
        negative = None
    num_frames, fps = length(request.num_frames, request.duration, spec) if request.type == "video" else (None, None)
    fmt: Format = request.output_format or ("png" if request.type == "image" else "mp4")
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
        "seed": seed,
        "n": request.n,
        "deterministic": request.deterministic,
        "call": dict(spec.call),
        "output_format": fmt,
        "priority": priority,
        "webhook_url": request.webhook_url,
        "scheduler": _scheduler(request, spec),
        "clip_skip": _clip_skip(request, spec),
        "loras": _loras(request, spec, dtype, find_lora),
        "preview": request.preview,
    }
    return Resolved(stored, _params(stored, dtype))


def _check_taken(request: GenerateRequest, spec: ModelSpec) -> None:
    """An empty negative prompt asks for nothing."""
    for name, argument, value in (
        ("negative_prompt", "negative_prompt", request.negative_prompt or None),
        ("guidance_scale", "guidance_scale", request.guidance_scale),
        ("steps", "num_inference_steps", request.steps),
    ):
        if value is not None and not _takes(spec, argument):
            raise BadRequest(f"{name}: {spec.name} takes none.")


def _takes(spec: ModelSpec, argument: str) -> bool:
    return not spec.arguments or argument in spec.arguments


def _scheduler(request: GenerateRequest, spec: ModelSpec) -> str | None:
    if request.scheduler is None:
        return spec.defaults.scheduler
    if request.scheduler in spec.schedulers:
        return request.scheduler
    if not spec.schedulers:
        raise BadRequest(f"scheduler: {spec.name} has none that could be changed.")
    raise BadRequest(f"scheduler must be one of {', '.join(spec.schedulers)} for {spec.name}.")


def _clip_skip(request: GenerateRequest, spec: ModelSpec) -> int | None:
    wanted = request.clip_skip if request.clip_skip is not None else spec.defaults.clip_skip
    if wanted and not spec.max_clip_skip:
        raise BadRequest(f"clip_skip: {spec.name} has no layers of CLIP that could be left out.")
    if wanted and wanted > spec.max_clip_skip:
        raise BadRequest(f"clip_skip must be at most {spec.max_clip_skip} for {spec.name}.")
    return wanted or None


def _loras(request: GenerateRequest, spec: ModelSpec, dtype: str, find: FindLora | None) -> list[dict[str, Any]]:
    """With the file of each, so that a job goes on with what it was accepted with."""
    if not request.loras:
        return []
    if not spec.takes_loras:
        raise BadRequest(f"loras: {spec.name} takes none.")
    if find is None:
        raise BadRequest("loras: this server has none.")
    names = [name for name, _ in request.loras]
    if len(set(names)) < len(names):
        raise BadRequest("loras: each may be named once.")
    try:
        found = [(name, find(name), weight) for name, weight in request.loras]
        for name, path, _ in found:
            if spec.path is not None and not may_fit(path, spec.path):
                raise BadRequest(f"loras: {name} is for none of {spec.name}'s layers: it was made for another model.")
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
        raise BadRequest("loras: a file went away.") from error
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
        "scheduler": stored["scheduler"],  # where none was asked for, known when it ran
        "clipSkip": stored["clip_skip"],
        "dtype": dtype,
        "deterministic": stored["deterministic"],
        "outputFormat": stored["output_format"],
        "call": stored["call"],
        "loras": [{"name": lora["name"], "weight": lora["weight"]} for lora in stored["loras"]],
    }
    if stored["fps"] is not None:
        frames, fps = stored["num_frames"], stored["fps"]
        params |= {"numFrames": frames, "fps": fps, "durationSeconds": round(frames / fps, 3)}
    return params


def engine_job(row: JobRow) -> Job:
    """The engine's job of a stored one: the same each time, seeds included."""
    said = row.request
    return Job(
        id=row.id,
        owner=row.key_id,
        type=row.type,
        model=row.model,
        priority=said["priority"],
        attempt=row.attempt,
        requests=tuple(
            DiffusionRequest(
                id=f"{row.id}/{index}",
                owner=row.key_id,
                prompt=said["prompt"],
                negative_prompt=said["negative_prompt"],
                width=said["width"],
                height=said["height"],
                num_frames=said["num_frames"],
                fps=said["fps"],
                steps=said["steps"],
                guidance_scale=said["guidance_scale"],
                seed=said["seed"] + index,
                deterministic=said["deterministic"],
                preview=said.get("preview", False) and index == 0,
                call=said["call"],
                scheduler=said.get("scheduler"),  # jobs stored before there were these
                clip_skip=said.get("clip_skip"),
                loras=tuple(Lora(**lora) for lora in said.get("loras", ())),
            )
            for index in range(said["n"])
        ),
    )
