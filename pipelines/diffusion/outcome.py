"""Turns the way a task ended into the update that ends its request. Device thread only."""

from __future__ import annotations

import traceback

from pipelines import device
from pipelines.batching.task import Outcome, Task
from pipelines.diffusion.adapters.lent_modules import BadAdapter
from pipelines.diffusion.arguments import UnknownArgument
from pipelines.diffusion.inputs.files import BadMedia
from pipelines.diffusion.lora.adapters import BadLora
from pipelines.diffusion.prompts import BadPrompt
from pipelines.diffusion.stock_call import PipelineOutput
from pipelines.diffusion.task_pipelines import UnknownPipeline
from pipelines.interface import Failed, Rendered

IN_TILES = (
    "This output was decoded in tiles, because the device lacked the memory to decode it whole. Its pixels differ "
    "slightly from those of the pipeline called directly, most where two tiles meet."
)


def end_of(outcome: Outcome) -> Rendered | Failed:
    task = outcome.task
    if outcome.error is not None:
        return _failure(task, outcome.error)
    output: PipelineOutput = outcome.result
    if not output.finite:
        return Failed(task.name, "invalid_output", "The model produced values that are not numbers.")
    warnings = (*output.warnings, IN_TILES) if task.tiled else output.warnings
    made = output.frames, task.batch_peak, output.scheduler, warnings, output.sound, output.flagged
    return Rendered(task.name, *made)


def _failure(task: Task, error: BaseException) -> Failed:
    detail = "".join(traceback.format_exception(error))
    if isinstance(error, UnknownArgument | BadAdapter | BadLora | BadMedia | BadPrompt | UnknownPipeline):
        return Failed(task.name, "bad_request", str(error), detail)
    if isinstance(error, (ValueError, TypeError)) and task.n_calls == 0:  # pipelines check their arguments first
        return Failed(task.name, "bad_request", "The pipeline refused the arguments of this job.", detail)
    if device.is_out_of_memory(error):
        return Failed(task.name, "out_of_memory", "The device ran out of memory for this job, even alone.", detail)
    return Failed(task.name, "model_error", "The pipeline failed on this job.", detail)
