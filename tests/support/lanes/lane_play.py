"""Runs requests through a diffusion lane, and through the stock pipeline for comparison."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from concurrent.futures import wait
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.diffusion.arguments import FRAMES_ARGUMENTS
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import Canceled, Failed, Rendered, Replied, Update
from tests.support.lanes.stock_families import Family

End = Rendered | Replied | Failed | Canceled


def request(family: Family, name: str, **wanted: Any) -> DiffusionRequest:
    """A small request of the family; `wanted` replaces its fields."""
    usual: dict[str, Any] = {
        "prompt": "a red circle on blue",
        "negative_prompt": None,
        "width": family.size,
        "height": family.size,
        "num_frames": family.num_frames,
        "steps": 3,
        "guidance_scale": 4.0,
        "seed": 7,
        "call": family.call,
    }
    return DiffusionRequest(id=name, **{**usual, **wanted})


def mixed_four(family: Family) -> list[DiffusionRequest]:
    """Four requests that differ in prompt, seed, steps and guidance."""
    negative = "blurred" if family.takes_negative else None
    return [
        request(family, "a", prompt="a red circle", seed=1, steps=4, guidance_scale=3.0),
        request(family, "b", prompt="ocean waves at sunset, wide", seed=2, steps=3, guidance_scale=5.5),
        request(family, "c", prompt="a city", seed=2**40, steps=6, guidance_scale=4.0, negative_prompt=negative),
        request(family, "d", prompt="a green star on the left", seed=4, steps=4, guidance_scale=7.0),
    ]


def direct(pipeline: Any, wanted: DiffusionRequest) -> NDArray[np.float32]:
    """The output of the stock pipeline for the request: (F, H, W, 3)."""
    arguments: dict[str, Any] = {
        "prompt": wanted.prompt,
        "negative_prompt": wanted.negative_prompt,
        "width": wanted.width,
        "height": wanted.height,
        "num_inference_steps": wanted.steps,
        "guidance_scale": wanted.guidance_scale,
        **wanted.call,
    }
    parameters = inspect.signature(type(pipeline).__call__).parameters
    arguments[next((name for name in FRAMES_ARGUMENTS if name in parameters), "num_frames")] = wanted.num_frames
    given = {name: value for name, value in arguments.items() if value is not None and name in parameters}
    torch.manual_seed(wanted.seed)  # some pipelines sample a prompt first, with torch's own generator
    generator = torch.Generator("cpu").manual_seed(wanted.seed)
    media = pipeline(**given, generator=generator, output_type="np")[0]
    return np.asarray(media[0] if wanted.num_frames else media, dtype=np.float32)


def play(lane: DiffusionLane, most_steps: int = 10_000) -> list[Update]:
    """Step the lane until it has no work."""
    updates: list[Update] = []
    while lane.has_work():
        updates += lane.step()
        most_steps -= 1
        assert most_steps, "the lane never comes to an end"
    return updates


def ends(updates: Iterable[Update]) -> dict[str, End]:
    """How each request ended. Asserts that each ended once."""
    found = [update for update in updates if isinstance(update, End)]
    assert len({end.request_id for end in found}) == len(found)
    return {end.request_id: end for end in found}


def rendered(lane: DiffusionLane, requests: Iterable[DiffusionRequest]) -> dict[str, Rendered]:
    """Run all requests at once through the lane, their inputs read. Asserts that every one succeeds."""
    for each in requests:
        lane.admit(each)
    wait_for_inputs(lane)
    done = ends(play(lane))
    failed = [end for end in done.values() if not isinstance(end, Rendered)]
    assert not failed, failed
    return {name: end for name, end in done.items() if isinstance(end, Rendered)}


def wait_for_inputs(lane: DiffusionLane) -> None:
    """Wait until the inputs of all admitted requests have been read, so that none starts later than the others."""
    wait(lane._waiting.reader._pending.values())


def gap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest difference of two pixels."""
    assert one.shape == other.shape
    return float(np.abs(one - other).max())
