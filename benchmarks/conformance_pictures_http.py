"""Compares classes that are given pictures over HTTP: uploads the files, runs four jobs of several kinds at once.

The reference is the library in this process, over the same weights, called with the parameters that the server
returned and with the inputs as the lane reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conformance_http import Failed, HttpComparison, entry_of, pixels_of, slug
from benchmarks.conformance_lane import made_in_lane
from benchmarks.conformance_pictures import PictureJob, PictureJobs
from benchmarks.conformance_rows import Row
from benchmarks.families import PICTURE_FAMILIES, Family
from models.checkpoint.pipeline_source import pipeline_source
from models.checkpoint.read_checkpoint import read_checkpoint
from pipelines.diffusion_interface import Control, DiffusionRequest, Inputs, MediaFile

SAME_LEVELS = 2  # of 255


class PictureComparison(HttpComparison):
    """Compares classes that are given pictures or clips."""

    def _family(self, name: str) -> Family | None:
        return PICTURE_FAMILIES.get(name)

    def _pipeline(self, family: Family, folder: Path) -> Row:
        files = folder.parent / "files"
        files.mkdir(parents=True, exist_ok=True)
        pictures = PictureJobs(family.name, files)
        pictures.pipeline.save_pretrained(folder)
        self._add(folder, entry_of(family, type(pictures.pipeline).__name__))
        lent = self._lend(files / "lent", slug(family.name)) if family.lent else None
        try:
            return self._compared(family, pictures, folder, lent)
        finally:
            if lent is not None:
                self._live.request("DELETE", f"/api/models/{lent}")

    def _lend(self, folder: Path, of: str) -> str:
        name = f"{of}-lent"
        reply = self._live.post("/api/models", {"name": name, "source": str(folder)})
        if reply.status != 200:
            raise Failed(reply.json["error"])
        return name

    def _compared(self, family: Family, pictures: PictureJobs, folder: Path, lent: str | None) -> Row:
        jobs = pictures.jobs()
        bodies = [self._body(job, folder.name, lent) for job in jobs]
        self._round(bodies)
        ended = self._round(bodies)
        guides = read_checkpoint(folder, name=folder.name, source="", float_bytes=4).guidance_argument
        levels = 0
        for job, status in zip(jobs, ended, strict=True):
            params = status["params"]
            made_by = params.get("pipeline") or type(pictures.pipeline).__name__
            if made_by != job.family.name:
                raise Failed(f"the server chose {made_by} instead of {job.family.name}")
            served = pixels_of(self._live.fetch(status["outputs"][0]["url"]).body, family.kind)
            made = pictures.by_library(dataclasses.replace(job, request=_as_run(job.request, params, guides)))
            expected = np.rint(np.clip(made, 0.0, 1.0) * 255.0).astype(int)
            if served.shape != expected.shape:
                raise Failed(f"{job.request.id}: {served.shape} where the library gives {expected.shape}")
            levels = max(levels, int(np.abs(served.astype(int) - expected).max()))
        _, shared = made_in_lane(pictures, jobs)  # jobs this short may end before the next one has arrived
        return Row(family.name, family.kind, levels <= SAME_LEVELS, shared, "", levels)

    def _body(self, job: PictureJob, model: str, lent: str | None) -> dict[str, Any]:
        wanted, source = job.request, pipeline_source(job.family.name)
        assert source is not None
        fields = {
            "prompt": wanted.prompt,
            "seed": wanted.seed,
            "width": wanted.width,
            "height": wanted.height,
            "num_frames": wanted.num_frames,
            "steps": wanted.steps if "num_inference_steps" in source.arguments else None,
            "guidance_scale": wanted.guidance_scale,
            "negative_prompt": wanted.negative_prompt,
            "strength": wanted.strength,
            "output_format": "png" if job.family.kind == "image" else "frames",
            **self._inputs(wanted.inputs, lent),
        }
        given = {name: value for name, value in fields.items() if value is not None}
        return {"type": job.family.kind, "model": model, **given}

    def _inputs(self, inputs: Inputs, lent: str | None) -> dict[str, Any]:
        single = {name: getattr(inputs, name) for name in ("image", "mask", "last_image", "video")}
        fields: dict[str, Any] = {name: self._uploaded(file) for name, file in single.items() if file is not None}
        if inputs.images:
            fields["images"] = [self._uploaded(file) for file in inputs.images]
        if inputs.controls:
            fields["control"] = [self._control(control, lent) for control in inputs.controls]
        return fields

    def _control(self, control: Control, lent: str | None) -> dict[str, Any]:
        chosen = {"model": lent} if lent is not None else {"type": "canny", "preprocessor": "none"}
        if control.mode is not None:
            chosen["type"] = "openpose"  # the first kind of a ControlNet of several
        return {**chosen, "image": self._uploaded(control.image), "strength": control.strength}

    def _uploaded(self, file: MediaFile) -> str:
        reply = self._live.post(
            "/api/files", Path(file.path).read_bytes(), **{"Content-Type": "application/octet-stream"}
        )
        if reply.status != 200:
            raise Failed(reply.json["error"])
        return str(reply.json["fileId"])


def _as_run(wanted: DiffusionRequest, params: Mapping[str, Any], guides: str) -> DiffusionRequest:
    """The request with what the server resolved."""
    return dataclasses.replace(
        wanted,
        width=params["width"],
        height=params["height"],
        steps=params["steps"],
        num_frames=params.get("numFrames"),
        fps=params.get("fps"),
        guidance_argument=guides,
        call={name: value for name, value in wanted.call.items() if name != guides or wanted.guidance_scale is None},
    )
