"""Lanes on a GPU do what those on a CPU do; here weights really move between two memories."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.support.lanes.lane_contract import (
    LaneCase,
    LaneContract,
    MidForwardContract,
    chat_case,
    diffusion_case,
    embedding_case,
    vision_case,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

PREEMPTIBLE: dict[str, Callable[[], LaneCase]] = {
    "picture": lambda: diffusion_case("cuda"),
    "picture from a picture": lambda: diffusion_case("cuda", task="image"),
    "picture with a mask": lambda: diffusion_case("cuda", task="mask"),
    "clip": lambda: diffusion_case("cuda", "wan"),
    "embedding": lambda: embedding_case("cuda"),
}
LANES: dict[str, Callable[[], LaneCase]] = {
    **PREEMPTIBLE,
    "chat": lambda: chat_case("cuda"),
    "chat by graphs": lambda: chat_case("cuda", static=True),
    "unbatched chat": lambda: chat_case("cuda", "off"),
    "chat with and without pictures": lambda: vision_case("cuda", static=True),
    "scored chat": lambda: chat_case("cuda", n_prompt_logprobs=2),
}


@pytest.fixture
def case(request: pytest.FixtureRequest) -> LaneCase:
    made: LaneCase = request.param()
    return made


@pytest.mark.parametrize("case", LANES.values(), ids=LANES.keys(), indirect=True)
class TestLane(LaneContract):
    pass


@pytest.mark.parametrize("case", PREEMPTIBLE.values(), ids=PREEMPTIBLE.keys(), indirect=True)
class TestPreemptibleLane(MidForwardContract):
    pass
