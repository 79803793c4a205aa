"""Tells the scheduler what a forward is: for whom it runs, what it costs like, and which stage it belongs to."""

from __future__ import annotations

from pipelines.batching.rendezvous import Forward
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import LaneStage, NextStep
from pipelines.tile_grid import tile_size


def next_step_of(forward: Forward, request: DiffusionRequest, names: tuple[str, ...], *, denoising: bool) -> NextStep:
    """request: the first of those that share the forward. names: the ids of all. denoising: its loop has begun."""
    enlarging = request.upscaling is not None and forward.component == request.upscaling.adapter.component
    shape, units = request.shape, request.units
    if enlarging:  # whatever the size of the frames, each forward is one tile
        width, height = tile_size(request.width, request.height)
        shape, units = f"{width}x{height}x1", width * height
    if forward.entry == "decode" or enlarging:
        stage: LaneStage = "decoding"
    else:
        stage = "denoising" if denoising else "encoding"
    return NextStep(forward.component, forward.entry, stage, shape, units, len(names), names)
