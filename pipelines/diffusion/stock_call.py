"""What a task runs: the stock pipeline's own `__call__`, on a copy that is the request's own. Device thread only."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.diffusion.arguments import Arguments
from pipelines.diffusion.frames import frames_of, sound_of
from pipelines.diffusion.lora import Adapters
from pipelines.diffusion.preview import Previews
from pipelines.diffusion.prompt_cache import PromptCache
from pipelines.diffusion.prompts import read_prompts
from pipelines.diffusion.request_scope import StepCounter, scheduler_of, scoped
from pipelines.interface import DiffusionRequest, Lora, Previewed, Progressed, Sound, Stage, Update


@dataclass(frozen=True, slots=True)
class Made:
    """What it gave, as `Rendered` has it."""

    frames: NDArray[np.float32]
    sound: Sound | None
    scheduler: str
    warnings: tuple[str, ...]

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.frames).all() and (self.sound is None or np.isfinite(self.sound.samples).all()))


class StockCall:
    """One pipeline's. `denoising` has the ids of requests whose progress bar has started."""

    def __init__(
        self,
        pipeline: Any,
        kind: Literal["image", "video"],
        place: torch.device | None,
        adapters: Adapters,
        tell: Callable[[Update], None],
    ) -> None:
        """place: where it is to compute; None: wherever its modules are."""
        self.previews = Previews()
        self.denoising: set[str] = set()
        self._pipeline = pipeline
        self._kind = kind
        self._place = place
        self._adapters = adapters
        self._tell = tell
        self._arguments = Arguments(type(pipeline))
        self._prompts = PromptCache(place=place)

    def run(self, request: DiffusionRequest, loras_in_use: Callable[[], Collection[Lora]]) -> Made:
        self._progressed(request, "encoding", 0, request.steps)
        own = scoped(self._pipeline, functools.partial(self._count_steps, request), self._place)
        if request.scheduler is not None:
            own.scheduler = scheduler_of(request.scheduler, own.scheduler)
        partly = self._adapters.load(request.loras, loras_in_use())
        if request.preview:
            self.previews.watch(own, request.width / request.height, functools.partial(self._show, request))
        self._prompts.dress(own, request)
        arguments, warnings = read_prompts(own, self._arguments.of(request))
        output = own(**arguments)
        scheduler = type(getattr(own, "scheduler", None)).__name__
        return Made(frames_of(output[0], self._kind), sound_of(output, own), scheduler, (*partly, *warnings))

    def _show(self, request: DiffusionRequest, colours: NDArray[np.uint8]) -> None:
        self._tell(Previewed(request.id, colours))

    def _count_steps(self, request: DiffusionRequest, total: int) -> StepCounter:
        def on_step(done: int, total: int) -> None:
            self.denoising.add(request.id)
            stage: Stage = "denoising" if done < total or total == 0 else "decoding"
            self._progressed(request, stage, done, total or request.steps)

        return StepCounter(total, on_step)

    def _progressed(self, request: DiffusionRequest, stage: Stage, step: int, total: int) -> None:
        self._tell(Progressed(request.id, stage, step, total))
