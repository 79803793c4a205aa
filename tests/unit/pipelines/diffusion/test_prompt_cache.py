"""A prompt that was encoded for one job is not encoded again for a job that differs in its seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion.prompt_cache import PromptCache
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import StepCost
from tests.support.lanes.lane_play import direct, gap, rendered, request
from tests.support.lanes.stock_families import FAMILIES

SD = FAMILIES["sd15"]


@pytest.fixture(scope="module")
def sd() -> Any:
    return SD.build()


@pytest.fixture
def lane(sd: Any) -> Iterator[DiffusionLane]:
    lane = DiffusionLane(sd, kind="image")
    yield lane
    lane.close()


def encodings(lane: DiffusionLane) -> int:
    """Forwards of the text encoder since the last call."""
    return sum(isinstance(note, StepCost) and note.component == "text_encoder" for note in lane.take_costs())


def test_the_same_prompt_with_another_seed_runs_no_text_encoder_and_gives_the_stock_output(
    sd: Any, lane: DiffusionLane
) -> None:
    first = request(SD, "a", deterministic=True, owner="me")
    rendered(lane, [first])
    assert encodings(lane) == 2  # the prompt and the negative prompt

    again = replace(first, id="b", seed=first.seed + 1)
    picture = rendered(lane, [again])["b"].frames

    assert encodings(lane) == 0
    assert gap(picture, direct(sd, again)) == 0


@pytest.mark.parametrize(
    "other",
    [{"owner": "you"}, {"prompt": "another"}, {"guidance_scale": 1.5}, {"deterministic": False}, {"clip_skip": 1}],
    ids=lambda other: next(iter(other)),
)
def test_a_request_of_another_owner_or_with_other_settings_is_encoded_again(
    lane: DiffusionLane, other: dict[str, Any]
) -> None:
    first = request(SD, "a", deterministic=True, owner="me")
    rendered(lane, [first])
    encodings(lane)

    rendered(lane, [replace(first, id="b", **other)])

    assert encodings(lane) > 0


class Encoder:
    """The part of a pipeline that the cache uses."""

    def __init__(self, random: bool = False) -> None:
        self.random = random
        self.calls = 0

    def encode_prompt(self, prompt: Any, n: int = 4) -> tuple[torch.Tensor, None]:
        self.calls += 1
        return (torch.rand(n) if self.random else torch.ones(n)), None


def wrapped(cache: PromptCache, wanted: DiffusionRequest, **how: Any) -> Any:
    own = Encoder(**how)
    cache.wrap(own, wanted)
    return own


def test_stock_code_gets_copies_that_it_may_write_to() -> None:
    own = wrapped(PromptCache(), request(SD, "a"))
    for _ in range(3):
        encoded, _ = own.encode_prompt("x")
        assert torch.equal(encoded, torch.ones(4))
        encoded.mul_(2)
    assert own.calls == 1


def test_outputs_that_depend_on_random_numbers_and_prompts_given_as_tensors_are_not_cached() -> None:
    rewriting = wrapped(PromptCache(), request(SD, "a"), random=True)
    given = wrapped(PromptCache(), request(SD, "a"))
    for _ in range(2):
        rewriting.encode_prompt("x")
        given.encode_prompt(torch.zeros(2))
    assert (rewriting.calls, given.calls) == (2, 2)


def test_the_cache_keeps_to_its_limit_and_drops_the_least_recently_used_prompt() -> None:
    cache = PromptCache(limit_bytes=40)
    own = wrapped(cache, request(SD, "a"))
    for prompt in ("old", "used", "used", "old", "new"):
        own.encode_prompt(prompt)
    assert (own.calls, cache.n_bytes) == (3, 32)
    own.encode_prompt("old")
    assert own.calls == 3
    own.encode_prompt("used")
    assert own.calls == 4
    own.encode_prompt("too large", n=100)
    assert cache.n_bytes == 32


def test_a_pipeline_without_encode_prompt_is_left_unchanged() -> None:
    own = SimpleNamespace()
    PromptCache().wrap(own, request(SD, "a"))
    assert vars(own) == {}


def test_a_cache_without_memory_for_a_copy_fails_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without memory for a copy, the prompt is encoded again."""
    own = wrapped(PromptCache(), request(SD, "a"))
    clone, full = torch.Tensor.clone, True

    def limited(tensor: torch.Tensor) -> torch.Tensor:
        if full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return clone(tensor)

    monkeypatch.setattr(torch.Tensor, "clone", limited)
    for _ in range(2):
        assert torch.equal(own.encode_prompt("x")[0], torch.ones(4))
    assert own.calls == 2, "nothing could be cached"
    full = False
    own.encode_prompt("x")
    own.encode_prompt("x")
    assert own.calls == 3
    full = True
    assert torch.equal(own.encode_prompt("x")[0], torch.ones(4))
    assert own.calls == 4, "the cached output could not be copied"
