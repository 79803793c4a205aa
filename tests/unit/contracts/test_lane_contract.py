"""Fake and real lanes do the same in all that the engine and the scheduler rely on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipelines import device
from tests.support.lanes.lane_contract import (
    LaneCase,
    LaneContract,
    MidForwardContract,
    chat_case,
    diffusion_case,
    embedding_case,
    fake_case,
    vision_case,
)

PREEMPTIBLE: dict[str, Callable[[], LaneCase]] = {
    "fake picture": lambda: fake_case("image"),
    "picture": lambda: diffusion_case("cpu"),
    "picture from a picture": lambda: diffusion_case("cpu", task="image"),
    "picture with a mask": lambda: diffusion_case("cpu", task="mask"),
    "clip": lambda: diffusion_case("cpu", "wan"),
    "embedding": lambda: embedding_case("cpu"),
}
LANES: dict[str, Callable[[], LaneCase]] = {
    **PREEMPTIBLE,
    "fake chat": lambda: fake_case("chat"),
    "chat": lambda: chat_case("cpu"),
    "chat by static steps": lambda: chat_case("cpu", static=True),
    "unbatched chat": lambda: chat_case("cpu", "off"),
    "chat with and without pictures": lambda: vision_case("cpu"),
    "chat with and without pictures, by static steps": lambda: vision_case("cpu", static=True),
    "scored chat": lambda: chat_case("cpu", n_prompt_logprobs=2),
    "unbatched embedding": lambda: embedding_case("cpu", "off"),
}


def each_of(lanes: dict[str, Callable[[], LaneCase]]) -> list[object]:
    """In `make check` a picture from a text stands for the other tasks and for clips too."""
    slow = ("clip", "picture from a picture", "picture with a mask")
    return [pytest.param(lanes[name], id=name, marks=[pytest.mark.slow] * (name in slow)) for name in lanes]


@pytest.fixture
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> LaneCase:
    monkeypatch.setattr(device, "has_own_memory", lambda device_name: True)  # so that weights can be parked
    made: LaneCase = request.param()
    return made


@pytest.mark.parametrize("case", each_of(LANES), indirect=True)
class TestLane(LaneContract):
    pass


@pytest.mark.parametrize("case", each_of(PREEMPTIBLE), indirect=True)
class TestPreemptibleLane(MidForwardContract):
    pass
