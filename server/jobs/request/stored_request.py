"""The stored form of a resolved request: JSON that holds all that is needed to run its job, again after a crash.

Pure functions. `params` is the part of it that the client sees: hashes of its pictures and clips, never their contents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipelines.diffusion_interface import (
    Adapter,
    Control,
    DiffusionRequest,
    ImagePrompt,
    Inputs,
    Lora,
    MediaFile,
    Upscaling,
)
from server.job import Job
from server.store.jobs import JobRow

Json = dict[str, Any]
SINGLE = ("image", "mask", "last_image", "video")


def stored_inputs(inputs: Inputs) -> Json | None:
    """Returns None for a request without pictures and clips."""
    return None if inputs == Inputs() else {name: value for name, value in asdict(inputs).items() if value}


def read_inputs(stored: Mapping[str, Any] | None) -> Inputs:
    if not stored:
        return Inputs()
    return Inputs(
        **{name: MediaFile(**stored[name]) for name in SINGLE if name in stored},
        images=tuple(MediaFile(**image) for image in stored.get("images", ())),
        controls=tuple(
            Control(**{**each, "image": MediaFile(**each["image"]), "adapter": read_adapter(each["adapter"])})
            for each in stored.get("controls", ())
        ),
        image_prompts=tuple(
            ImagePrompt(
                images=tuple(MediaFile(**image) for image in each["images"]),
                adapter=Adapter(**each["adapter"]),
                strength=each["strength"],
            )
            for each in stored.get("image_prompts", ())
        ),
    )


def read_adapter(stored: Mapping[str, Any] | None) -> Adapter | None:
    return None if stored is None else Adapter(**stored)


def client_params(stored: Json, dtype: str) -> Json:
    """The parameters as the client sees them."""
    params: Json = {
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
    if stored["inputs"] is not None:
        params |= {"pipeline": stored["pipeline"], "inputs": _shown_inputs(stored["inputs"]), "fit": stored["fit"]}
    if stored["strength"] is not None:
        params["strength"] = stored["strength"]
    if stored["upscaling"] is not None:
        larger = stored["upscaling"]
        params["upscale"] = {
            "model": larger["adapter"]["name"], "width": larger["width"], "height": larger["height"],
        }  # fmt: skip
    if stored["vae"] is not None:
        params["vae"] = stored["vae"]["name"]
    if stored["textual_inversions"]:
        params["textualInversions"] = [adapter["name"] for adapter in stored["textual_inversions"]]
    return params


def _shown_inputs(inputs: Json) -> Json:
    shown: Json = {name: _shown_file(inputs[name]) for name in SINGLE if name in inputs}
    if "images" in inputs:
        shown["images"] = [_shown_file(image) for image in inputs["images"]]
    if "controls" in inputs:
        shown["control"] = [
            {
                "model": each["adapter"] and each["adapter"]["name"],
                "image": _shown_file(each["image"]),
                **{name: each[name] for name in ("preprocessor", "mode", "strength", "start", "end")},
            }
            for each in inputs["controls"]
        ]
    if "image_prompts" in inputs:
        shown["ipAdapter"] = [
            {
                "model": each["adapter"]["name"],
                "images": [_shown_file(image) for image in each["images"]],
                "strength": each["strength"],
            }
            for each in inputs["image_prompts"]
        ]
    return shown


def _shown_file(file: Json) -> Json:
    shown = {name: file[name] for name in ("sha256", "width", "height")}
    if file.get("id"):  # jobs of older versions have none
        shown = {"fileId": file["id"], **shown}
    return shown if file["fps"] is None else {**shown, "numFrames": file["num_frames"], "fps": file["fps"]}


def engine_job(row: JobRow) -> Job:
    """Builds the engine's job from a stored one: the same each time, seeds included.

    Fields that jobs of older versions lack have defaults.
    """
    request = row.request
    upscaling = request.get("upscaling")
    shared: Json = {
        "owner": row.key_id,
        **{name: request[name] for name in ("prompt", "negative_prompt", "width", "height", "num_frames", "fps")},
        **{name: request[name] for name in ("steps", "guidance_scale", "deterministic", "call")},
        "guidance_argument": request.get("guidance_argument", "guidance_scale"),
        "scheduler": request.get("scheduler"),
        "speed": request.get("speed", "exact"),
        "clip_skip": request.get("clip_skip"),
        "loras": tuple(Lora(**lora) for lora in request.get("loras", ())),
        "asked": tuple(request.get("asked", ())),
        "pipeline": request.get("pipeline"),
        "inputs": read_inputs(request.get("inputs")),
        "input_arguments": request.get("input_arguments", {}),
        "strength": request.get("strength"),
        "fit": request.get("fit", "crop"),
        "upscaling": upscaling and Upscaling(**{**upscaling, "adapter": Adapter(**upscaling["adapter"])}),
        "vae": read_adapter(request.get("vae")),
        "textual_inversions": tuple(Adapter(**adapter) for adapter in request.get("textual_inversions", ())),
    }
    return Job(
        id=row.id,
        owner=row.key_id,
        type=row.type,
        model=row.model,
        priority=request["priority"],
        alone=row.attempt > 1,
        requests=tuple(
            DiffusionRequest(
                id=f"{row.id}/{index}",
                seed=request["seed"] + index,
                preview=request.get("preview", False) and index == 0,
                **shared,
            )
            for index in range(request["n"])
        ),
    )
