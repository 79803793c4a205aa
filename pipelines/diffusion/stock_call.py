"""Runs the stock pipeline's own `__call__` for one request, on the request's own copy of the pipeline.

This is the body of a task. Device thread only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.diffusion.adapters.borrowed import Borrowed
from pipelines.diffusion.adapters.controls import control_arguments, lent_components
from pipelines.diffusion.adapters.lent_modules import LentModules
from pipelines.diffusion.arguments import Arguments
from pipelines.diffusion.frames import frames_of, is_flagged, sound_of
from pipelines.diffusion.inputs.reader import Media
from pipelines.diffusion.inputs.values import input_values
from pipelines.diffusion.lora.adapters import Adapters
from pipelines.diffusion.preview import Previews
from pipelines.diffusion.prompt_cache import PromptCache
from pipelines.diffusion.prompts import read_prompts
from pipelines.diffusion.request_scope import StepCounter, make_scheduler, request_copy
from pipelines.diffusion.step_cache import StepCache
from pipelines.diffusion.task_pipelines import TaskPipelines, pipeline_class
from pipelines.diffusion.without_effect import other_size, without_effect
from pipelines.diffusion_interface import DiffusionRequest, Lora
from pipelines.interface import Previewed, Progressed, Sound, Stage, Update
from pipelines.step_schedule import MIN_STEPS

NO_STEP_SKIPPED = "speed has no effect on this model: it cannot skip a step, so that each was computed."
TOO_FEW_STEPS = f"speed has no effect below {MIN_STEPS} steps: each was computed."
FLAGGED = "The model's safety checker flagged this output and blacked it out."


@dataclass(frozen=True, slots=True)
class PipelineOutput:
    """The fields that `Rendered` takes from a pipeline."""

    frames: NDArray[np.float32]
    sound: Sound | None
    scheduler: str
    warnings: tuple[str, ...]
    flagged: bool  # a safety checker blacked it out

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.frames).all() and (self.sound is None or np.isfinite(self.sound.samples).all()))


class StockCall:
    """Calls the pipelines of one checkpoint for its requests."""

    def __init__(
        self,
        pipelines: TaskPipelines,
        kind: Literal["image", "video"],
        device: torch.device | None,
        adapters: Adapters,
        lent: LentModules,
        borrowed: Borrowed,
        emit: Callable[[Update], None],
    ) -> None:
        """device: where the pipeline computes; None: where its modules are. emit: takes the updates of requests."""
        self.previews = Previews()
        self.denoising: set[str] = set()  # ids of requests whose progress bar has started
        self._pipelines = pipelines
        self._kind = kind
        self._device = device
        self._adapters = adapters
        self._lent = lent
        self._borrowed = borrowed
        self._emit = emit
        self._arguments: dict[type, Arguments] = {}
        self._prompt_cache = PromptCache(device=device)

    def run(
        self,
        request: DiffusionRequest,
        loras_in_use: Callable[[], Collection[Lora]],
        step_cache: StepCache | None = None,
        read_media: Callable[[], Media] = Media,
    ) -> PipelineOutput:
        """loras_in_use: LoRAs of all requests of the lane, which must stay loaded. step_cache: that of the task.

        read_media: returns the request's inputs, or raises what went wrong when they were read.
        """
        self._progressed(request, "encoding", 0, request.loop_steps)
        media, pipeline = read_media(), self._pipeline_of(request)
        own = request_copy(pipeline, functools.partial(self._count_steps, request, step_cache), self._device)
        if request.scheduler is not None:
            own.scheduler = make_scheduler(request.scheduler, own.scheduler)
        lora_warnings = self._adapters.load(request.loras, loras_in_use())
        self._borrowed.put_on(own, request)
        if request.preview:
            self.previews.watch(own, request.width / request.height, functools.partial(self._show, request))
        self._prompt_cache.wrap(own, request)
        for_class = self._arguments_of(type(pipeline))
        inputs = input_values(media, request, type(pipeline), for_class.annotations)
        inputs |= control_arguments(request, for_class.annotations)
        inputs |= self._borrowed.arguments(request, media, for_class.annotations)
        arguments, prompt_warnings = read_prompts(own, for_class.for_request(request, inputs))
        output = own(**arguments)
        kind = "video" if request.num_frames is not None else self._kind  # an upscaler takes both
        frames, flagged = frames_of(output[0], kind), is_flagged(output)
        warnings = (
            *media.warnings,
            *lora_warnings,
            *prompt_warnings,
            *without_effect(own, arguments, request),
            *_speed_without_effect(request, step_cache),
            *other_size(frames, request),
            *((FLAGGED,) if flagged else ()),
        )
        frames = self._borrowed.enlarged(frames, request, functools.partial(StepCounter, on_step=_no_step))
        scheduler = type(own.scheduler).__name__ if getattr(own, "scheduler", None) is not None else "none"
        return PipelineOutput(frames, sound_of(output, own), scheduler, warnings, flagged)

    def _pipeline_of(self, request: DiffusionRequest) -> Any:
        """The pipeline of the request's class over the checkpoint's modules and those that are lent to it."""
        if request.pipeline is None or not request.inputs.controls:
            return self._pipelines.get(request.pipeline)
        lent = lent_components(request, pipeline_class(request.pipeline), self._lent.borrow)
        pipeline = self._pipelines.get(request.pipeline, lent)
        self._lent.refresh()
        return pipeline

    def _arguments_of(self, cls: type) -> Arguments:
        if cls not in self._arguments:
            self._arguments[cls] = Arguments(cls)
        return self._arguments[cls]

    def _show(self, request: DiffusionRequest, colours: NDArray[np.uint8]) -> None:
        self._emit(Previewed(request.id, colours))

    def _count_steps(self, request: DiffusionRequest, step_cache: StepCache | None, total: int) -> StepCounter:
        def on_step(done: int, total: int) -> None:
            self.denoising.add(request.id)
            if step_cache is not None:
                step_cache.at_step(done, total)
            stage: Stage = "denoising" if done < total or total == 0 else "decoding"
            self._progressed(request, stage, done, total or request.loop_steps)

        return StepCounter(total, on_step)

    def _progressed(self, request: DiffusionRequest, stage: Stage, step: int, total: int) -> None:
        self._emit(Progressed(request.id, stage, step, total))


def _no_step(done: int, total: int) -> None:
    """The tiles that an upscaler makes after the last step are no steps of the job."""


def _speed_without_effect(request: DiffusionRequest, step_cache: StepCache | None) -> tuple[str, ...]:
    if step_cache is None or step_cache.n_predicted:
        return ()
    return (TOO_FEW_STEPS if request.loop_steps < MIN_STEPS else NO_STEP_SKIPPED,)
