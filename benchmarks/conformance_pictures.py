"""Jobs that are given pictures or clips: what they ask for, and what the library makes of the same inputs.

The four jobs of a class differ in seed, steps, strength and size, and where its checkpoint has other classes, in kind:
one is made from a prompt alone, and one by a sibling, such as inpainting beside image-to-image.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from numpy.typing import NDArray

from benchmarks.families import FAMILIES, PICTURE_FAMILIES, Family
from benchmarks.families.family import assembled
from models.checkpoint.pipeline_inputs import PipelineInputs
from models.checkpoint.pipeline_source import pipeline_source
from pipelines.diffusion.arguments import FRAMES_ARGUMENTS
from pipelines.diffusion.inputs.reader import Media, read_inputs
from pipelines.diffusion_interface import ENLARGES, Adapter, Control, DiffusionRequest, Inputs, MediaFile, PipelineTask
from server.jobs.request.task_choice import takes_strength
from tests.support.lanes.lane_play import request
from tests.support.lanes.picture_jobs import clip_file, mask_file, picture_file

PROMPTS = ("a red circle", "ocean waves at sunset, wide", "a city", "a green star on the left")
STRENGTHS = (0.6, 0.8, 0.9, 0.7)
FPS = 8
# Arguments that take a list even of one picture.
LISTS = ("images", "input_images", "reference_images", "video", "control_video", "conditioning_frames")


@dataclass(frozen=True, slots=True)
class PictureJob:
    family: Family  # of the class that makes it: the class in question, a sibling, or the checkpoint's own from text
    request: DiffusionRequest


class PictureJobs:
    """The jobs of one class, with the files that they are given in a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.family = PICTURE_FAMILIES[name]
        self._folder = folder
        self.parts = self.family.parts()
        self.pipeline = assembled(self.family.base or name, self.parts)  # the checkpoint's own
        self._lent: Adapter | None = None
        if self.family.lent:
            self.parts[self.family.lent].save_pretrained(folder / "lent")
            kind: Any = {"controlnet": "controlnet", "adapter": "t2i_adapter"}[self.family.lent]
            self._lent = Adapter("lent", kind, str(folder / "lent"))

    def jobs(self) -> list[PictureJob]:
        wanted = [self.family, *self._beside(), self.family]
        wanted = [*wanted[:3], *[self.family] * (4 - len(wanted[:3]))][: self.family.jobs]
        return [PictureJob(family, self._request(family, i)) for i, family in enumerate(wanted)]

    def _beside(self) -> list[Family]:
        """The other kinds of jobs that the checkpoint does."""
        own = self.family.base or self.family.name
        found = [FAMILIES[own]] if own in FAMILIES else []
        if self.family.base and not found:
            found = [PICTURE_FAMILIES[own]]
        if self.family.base and not self.family.lent:
            found += [
                other
                for other in PICTURE_FAMILIES.values()
                if other.base == own and other is not self.family and other.components is self.family.components
            ]
        return found[:2]

    def _request(self, family: Family, i: int) -> DiffusionRequest:
        source = pipeline_source(family.name)
        assert source is not None
        size = self.family.size, self.family.size
        width = self.family.other_size if i == len(PROMPTS) - 1 else self.family.size
        inputs, arguments = Inputs(), PipelineInputs()
        if family.takes:
            arguments = next(each for each in source.inputs if set(family.takes) <= each.arguments.keys())
            filled = {arguments.arguments[name] for name in family.takes}
            missing = [name for name in arguments.required if arguments.arguments[name] not in filled]
            assert not missing, f"needs {missing}"
            inputs = self._inputs(family, i, size)
        guided = family.takes_guidance and "guidance_scale" in source.arguments
        task = PipelineTask(family.name, arguments.arguments, arguments=source.arguments)
        strong = takes_strength(task) and bool({"image", "video"} & set(family.takes))
        steps = family.steps[i % len(family.steps)]
        return request(
            dataclasses.replace(family, size=self.family.size),
            f"{family.name}/{i}",
            prompt=family.prompt.replace("%s", PROMPTS[i]),
            seed=1000 + i,
            steps=2 * steps if strong and len(family.steps) > 1 else steps,
            width=width,
            guidance_scale=(3.0, 5.5, 4.0, 7.0)[i] if guided else None,
            negative_prompt="blurred" if "negative_prompt" in source.arguments else None,
            fps=FPS if family.kind == "video" else None,
            pipeline=family.name if family.name != type(self.pipeline).__name__ else None,
            inputs=inputs,
            input_arguments=dict(arguments.arguments),
            strength=STRENGTHS[i] if strong else None,
        )

    def _inputs(self, family: Family, i: int, size: tuple[int, int]) -> Inputs:
        """Pictures of other sizes than the output's, each job its own."""
        larger = size[0] * 3 // 2, size[1] * 5 // 4

        def picture(seed: int, size: tuple[int, int] = larger) -> MediaFile:
            return self._picture(10 * i + seed, size)

        given: dict[str, Any] = {}
        for name in family.takes:
            match name:
                case "image" | "last_image":
                    given[name] = picture(len(given))
                case "mask":
                    given[name] = self._kept(mask_file, f"mask-{size[0]}.png", *larger)
                case "images":
                    given[name] = (picture(5), picture(6, (size[0] * 2, size[1] * 2)))
                case "video":
                    given[name] = self._clip(family, size)
                case "control":
                    as_clip = self._follows_clips(family)
                    map_ = self._clip(family, size) if as_clip else picture(7)
                    mode = 0 if "Union" in family.name else None  # the kind of map, of a ControlNet of several kinds
                    given["controls"] = (
                        Control(map_, self._lent, mode=mode, strength=0.8 if self._lent and i == 0 else 1.0),
                    )
        return Inputs(**given)

    @staticmethod
    def _follows_clips(family: Family) -> bool:
        return family.kind == "video"

    def _picture(self, seed: int, size: tuple[int, int]) -> MediaFile:
        return self._kept(picture_file, f"{seed}-{size[0]}x{size[1]}.png", *size, seed)

    def _clip(self, family: Family, size: tuple[int, int]) -> MediaFile:
        assert family.num_frames is not None
        return self._kept(clip_file, f"clip-{size[0]}-{family.num_frames}.mp4", *size, family.num_frames, FPS)

    def _kept(self, make: Any, name: str, *arguments: Any) -> MediaFile:
        file: MediaFile = make(self._folder / name, *arguments)
        return dataclasses.replace(file, sha256=name)

    def by_library(self, job: PictureJob) -> NDArray[np.float32]:
        """What the library makes, (F, H, W, 3) in [0, 1], of the inputs as the lane reads them."""
        own = type(self.pipeline).__name__
        media = read_inputs(job.request, own)
        pipeline = self.pipeline
        if job.family.name != own:
            config = {name: value for name, value in pipeline.config.items() if not name.startswith("_")}
            shared = {name: value for name, value in config.items() if name not in pipeline.components}
            parts = {**shared, **pipeline.components, **{name: self.parts[name] for name in self._lent_names()}}
            pipeline = assembled(job.family.name, parts)
        return called(pipeline, job.request, given(media, job.request, job.family.name, self._lent is not None))

    def _lent_names(self) -> Iterator[str]:
        if self.family.lent:
            yield self.family.lent


def given(media: Media, wanted: DiffusionRequest, cls: str, lent: bool) -> dict[str, Any]:
    """The arguments of a direct call that take the inputs."""
    found: dict[str, list[Any]] = {}
    for name, argument in wanted.input_arguments.items():
        match name:
            case "images":
                values = list(media.images)
            case "video":
                values = list(media.video)
            case "control":
                values = [picture for frames in media.controls for picture in frames]
            case _:
                value = getattr(media, name)
                values = [] if value is None else [value]
        if argument == "conditions":
            values = [condition(name, value, cls, wanted.num_frames) for value in values]
        if values:
            found[argument] = found.get(argument, []) + values
    arguments: dict[str, Any] = {}
    for argument, values in found.items():
        if argument == "mask" and "video" in found:
            values = values * len(found["video"])
        arguments[argument] = values if len(values) > 1 or argument in LISTS else values[0]
    for control in wanted.inputs.controls if lent else ():
        arguments |= {f"{part}_conditioning_scale": control.strength for part in ("controlnet", "adapter")}
        arguments["control_mode"] = control.mode
    return arguments


def condition(name: str, picture: Any, cls: str, num_frames: int | None) -> Any:
    """A picture as LTX takes it: with the frame at which it stands. LTX 2 counts latent frames, from the end too."""
    last = name == "last_image"
    if cls.startswith("LTX2"):
        return LTX2VideoCondition(frames=picture, index=-1 if last else 0)
    return LTXVideoCondition(image=picture, frame_index=(num_frames or 1) - 1 if last else 0)


def called(pipeline: Any, wanted: DiffusionRequest, inputs: dict[str, Any]) -> NDArray[np.float32]:
    parameters = inspect.signature(type(pipeline).__call__).parameters
    enlarges = ENLARGES.get(type(pipeline).__name__, 1)
    values: dict[str, Any] = {
        "prompt": wanted.prompt,
        "negative_prompt": wanted.negative_prompt,
        "width": wanted.width // enlarges,
        "height": wanted.height // enlarges,
        "num_inference_steps": wanted.steps,
        wanted.guidance_argument: wanted.guidance_scale,
        "strength": wanted.strength,
        "frame_rate": wanted.fps,
        "fps": wanted.fps,
        next((name for name in FRAMES_ARGUMENTS if name in parameters), "num_frames"): wanted.num_frames,
        **wanted.call,
        **inputs,
    }
    arguments = {name: value for name, value in values.items() if value is not None and name in parameters}
    torch.manual_seed(wanted.seed)  # some pipelines also use torch's global generator
    if "generator" in parameters:
        arguments["generator"] = torch.Generator("cpu").manual_seed(wanted.seed)
    media = pipeline(**arguments, output_type="np")[0]
    return np.asarray(media[0] if wanted.num_frames else media, dtype=np.float32)
