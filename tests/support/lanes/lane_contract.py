"""The contract of `pipelines.interface.Lane` as tests, for fake and real lanes on any device.

A test module subclasses the two classes and gives them the fixture `case`.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from pipelines.chat.decode.options import DecodeOptions
from pipelines.chat.lane import ChatLane
from pipelines.chat.prompts.pictures import PictureReader
from pipelines.chat.prompts.read_prompt import read_prompt
from pipelines.chat_interface import ChatRequest, Message, MessageImage
from pipelines.diffusion.lane import DiffusionLane
from pipelines.embedding_interface import EmbeddingRequest, TextTokens
from pipelines.interface import (
    Canceled,
    Embedded,
    Failed,
    FailureCode,
    Lane,
    Merging,
    NextStep,
    Rendered,
    Replied,
    Request,
    StepCost,
    Update,
)
from tests.support.lanes import tiny_encoders
from tests.support.lanes.fake_lane import FakeLane
from tests.support.lanes.lane_play import End, request, wait_for_inputs
from tests.support.lanes.picture_jobs import Task, picture_fields
from tests.support.lanes.stock_families import FAMILIES
from tests.support.lanes.tiny_chat import tiny_lane, tiny_model, tiny_tokenizer
from tests.support.lanes.tiny_vision import picture, tiny_vision_model
from tests.support.prompts import asked

MAX_STEPS = 3_000  # of one test: a lane that needs more never comes to an end
CACHE_BYTES = {"cpu": 4 << 20, "cuda": 16 << 20}  # on CUDA a step reads more tokens, and its masks take 4 MiB


@dataclass
class LaneCase:
    """A lane, and what to ask of it."""

    lane: Lane
    request: Callable[[str], Request]  # by id: takes several steps and succeeds
    failing: Callable[[str], Request]  # by id: fails
    code: FailureCode  # that those fail with
    holds_weights: Callable[[], bool]  # whether the model's weights are in memory
    preemptible: bool  # whether a forward can yield; then `MidForwardContract` holds too
    updates: list[Update] = field(default_factory=list)  # all that came out of the lane

    def admit(self, *names: str) -> None:
        for name in names:
            self.lane.admit(self.request(name))
        if isinstance(self.lane, DiffusionLane):
            wait_for_inputs(self.lane)

    def step(self, n: int = 1, *, should_yield: bool = False, max_rows: int | None = None) -> list[Update]:
        """Step the lane, with the next step's weights on the device as the engine sees to it; returns the updates."""
        new: list[Update] = []
        for _ in range(n):
            next_step = self.lane.next_step()
            if next_step is not None and next_step.component in self.lane.parked and max_rows != 0:
                self.lane.unpark([next_step.component])
            new += self.lane.step(max_rows, lambda: should_yield)
        self.updates += new
        return new

    def step_into_a_forward(self) -> NextStep:
        """Step until a forward has yielded."""
        for _ in range(MAX_STEPS):
            self.step(should_yield=True)
            next_step = self.lane.next_step()
            if self.lane.mid_forward:
                assert next_step is not None
                return next_step
        raise AssertionError("no forward ever yielded")

    def play(self, *names: str) -> dict[str, End]:
        """Admit the requests and step until nothing is left; returns all ends so far, by request."""
        self.admit(*names)
        for _ in range(MAX_STEPS):
            if not self.lane.has_work():
                return self.ends()
            self.step()
        raise AssertionError("the lane never came to an end")

    def ends(self) -> dict[str, End]:
        """How each request ended: once, and with nothing after that."""
        ended: dict[str, End] = {}
        for update in self.updates:
            assert update.request_id not in ended, f"{update} comes after {ended[update.request_id]}"
            if isinstance(update, Rendered | Replied | Embedded | Failed | Canceled):
                ended[update.request_id] = update
        return ended


def succeeded(ends: dict[str, End]) -> set[str]:
    return {name for name, end in ends.items() if isinstance(end, Rendered | Replied | Embedded)}


def same_output(one: End, other: End) -> bool:
    if isinstance(one, Rendered) and isinstance(other, Rendered):
        return bool(np.allclose(one.frames, other.frames, atol=1e-4))
    if isinstance(one, Embedded) and isinstance(other, Embedded):
        return bool(np.allclose(one.vectors, other.vectors, atol=1e-5))
    return isinstance(one, Replied) and isinstance(other, Replied) and one.text == other.text


class LaneContract:
    """What the engine and the scheduler may rely on, whatever the lane."""

    def test_it_has_the_protocols_members_with_the_same_parameters(self, case: LaneCase) -> None:
        for name, member in vars(Lane).items():
            if name.startswith("_"):
                continue
            assert hasattr(case.lane, name), name
            if inspect.isfunction(member):
                assert _parameters(getattr(type(case.lane), name)) == _parameters(member), name

    def test_each_request_ends_exactly_once(self, case: LaneCase) -> None:
        assert not case.lane.has_work()
        assert case.lane.next_step() is None
        ends = case.play("a", "b", "c")

        assert succeeded(ends) == {"a", "b", "c"}
        assert case.lane.next_step() is None
        assert case.lane.step() == []

    def test_the_next_step_names_a_component_and_the_requests_it_serves(self, case: LaneCase) -> None:
        case.admit("a", "b")
        while case.lane.has_work():
            next_step = case.lane.next_step()
            case.step()
            costs = [note for note in case.lane.take_costs() if isinstance(note, StepCost)]
            if next_step is None:
                assert costs == [], "a step that only starts requests runs no forward"
                continue
            assert next_step.component in case.lane.components
            assert len(next_step.request_ids) == next_step.rows
            assert set(next_step.request_ids) <= {"a", "b"}
            assert {cost.component for cost in costs} == {next_step.component}
            assert {name for cost in costs for name in cost.request_ids} <= {"a", "b"}

    def test_a_step_runs_at_most_max_rows_together(self, case: LaneCase) -> None:
        case.admit("a", "b", "c")
        while case.lane.has_work():
            case.step(max_rows=1)
            rows = [note.rows for note in case.lane.take_costs() if isinstance(note, StepCost)]
            assert max(rows, default=1) == 1 or case.lane.kind == "chat", "a chat lane only admits no more"
        assert succeeded(case.ends()) == {"a", "b", "c"}

    def test_costs_are_handed_out_once(self, case: LaneCase) -> None:
        case.play("a")
        costs = [note for note in case.lane.take_costs() if isinstance(note, StepCost)]

        assert costs
        assert all(cost.seconds > 0 and cost.request_ids == ("a",) for cost in costs)
        assert list(case.lane.take_costs()) == []

    def test_canceled_before_it_starts_a_request_never_runs(self, case: LaneCase) -> None:
        case.admit("a")
        case.lane.cancel("a")
        assert case.lane.next_step() is None
        assert case.lane.has_work(), "its end is still to come"
        assert case.step() == [Canceled("a")]
        assert not case.lane.has_work()
        assert list(case.lane.take_costs()) == []

    def test_canceled_between_steps_a_request_ends_at_once_and_its_place_is_free(self, case: LaneCase) -> None:
        case.admit("a", "b", "c")
        case.step(2)
        for name in ("a", "a", "nobody"):
            case.lane.cancel(name)
        next_step = case.lane.next_step()
        assert next_step is not None
        assert "a" not in next_step.request_ids
        assert [update for update in case.step() if isinstance(update, Canceled)] == [Canceled("a")]
        case.lane.cancel("a")

        assert succeeded(case.play("d")) == {"b", "c", "d"}
        assert case.ends()["a"] == Canceled("a")

    def test_all_can_be_canceled_at_once(self, case: LaneCase) -> None:
        case.admit("a", "b", "c")
        case.step(2)
        for name in "cab":
            case.lane.cancel(name)
        assert case.lane.next_step() is None
        case.step()
        assert not case.lane.has_work()
        assert case.ends() == {name: Canceled(name) for name in "abc"}

    def test_a_cancel_after_the_end_changes_nothing(self, case: LaneCase) -> None:
        case.play("a")
        case.lane.cancel("a")
        assert not case.lane.has_work()
        assert case.lane.step() == []

    def test_a_step_of_no_rows_ends_canceled_requests_and_runs_nothing(self, case: LaneCase) -> None:
        case.admit("a", "b")
        case.step(2)
        case.lane.take_costs()
        case.lane.cancel("a")
        case.lane.park(tuple(case.lane.components))

        assert case.step(max_rows=0) == [Canceled("a")]
        assert case.step(max_rows=0) == []
        assert [note for note in case.lane.take_costs() if isinstance(note, StepCost)] == []
        assert succeeded(case.play()) == {"b"}

    def test_a_request_that_fails_fails_alone(self, case: LaneCase) -> None:
        case.admit("good")
        case.step()
        case.lane.admit(case.failing("bad"))
        ends = case.play("other")

        assert succeeded(ends) == {"good", "other"}
        bad = ends["bad"]
        assert isinstance(bad, Failed)
        assert (bad.code, bool(bad.message)) == (case.code, True)

    def test_yielding_at_every_opportunity_changes_no_output(self, case: LaneCase) -> None:
        expected = case.play("a")["a"]
        case.updates.clear()
        case.admit("a")
        was_preempted = False
        while case.lane.has_work():
            case.step(should_yield=True)
            was_preempted |= case.lane.mid_forward
        assert was_preempted == case.preemptible
        assert same_output(case.ends()["a"], expected)

    def test_parked_and_present_components_add_up_on_the_way_out_and_back(self, case: LaneCase) -> None:
        lane = case.lane
        before = dict(lane.components)
        assert before
        assert (lane.parked, lane.weight_bytes) == ({}, sum(before.values()))
        assert lane.park(["nobody"]) == lane.unpark(["nobody"]) == lane.unpark(tuple(before)) == 0

        freed = 0
        for name in before:
            freed += lane.park([name, name])
            assert lane.park([name]) == 0
            assert name not in lane.components
            assert freed == sum(lane.parked.values())
            assert lane.weight_bytes == sum(lane.components.values()) == sum(before.values()) - freed
        assert freed == sum(before.values())
        for name in reversed(before):
            taken = lane.unpark([name])
            freed -= taken
            assert freed == sum(lane.parked.values()) == sum(before.values()) - lane.weight_bytes
        assert (dict(lane.components), lane.parked) == (before, {})
        assert succeeded(case.play("a")) == {"a"}

    def test_parking_while_requests_run_loses_none_of_their_work(self, case: LaneCase) -> None:
        expected = case.play("a")["a"]
        case.updates.clear()
        case.admit("a")
        n_parked = 0
        while case.lane.has_work():
            n_parked += case.lane.park(tuple(case.lane.components)) > 0
            case.step(should_yield=True)
        assert same_output(case.ends()["a"], expected)
        assert n_parked or case.lane.kind == "chat", "a chat lane keeps its weights while chats run"

    def test_a_resized_cache_is_as_large_as_it_says_and_its_chats_go_on(self, case: LaneCase) -> None:
        lane = case.lane
        expected = case.play("a", "b")
        case.updates.clear()
        before = lane.cache_bytes
        assert (before > 0) == (lane.kind == "chat")
        case.admit("a", "b")
        case.step(2)
        for n_bytes in (0, before // 2, 2 * before):
            held = lane.resize_cache(n_bytes)
            assert held == lane.cache_bytes
            assert (held > 0) == (lane.kind == "chat"), "chats that run keep what they need"
            case.step()
        ends = case.play()
        assert all(same_output(ends[name], end) for name, end in expected.items())
        assert lane.resize_cache(0) == lane.cache_bytes == 0
        assert succeeded(case.play("c")) == {"a", "b", "c"}

    def test_a_closed_lane_holds_nothing(self, case: LaneCase) -> None:
        case.play("a")
        lane = case.lane
        assert case.holds_weights()
        lane.close()

        assert not case.holds_weights()
        assert (lane.components, lane.parked, lane.weight_bytes, lane.cache_bytes) == ({}, {}, 0, 0)
        assert (lane.has_work(), lane.next_step(), lane.mid_forward) == (False, None, False)

    def test_a_lane_with_work_cannot_be_closed(self, case: LaneCase) -> None:
        case.admit("a")
        with pytest.raises(AssertionError):
            case.lane.close()
        assert succeeded(case.play()) == {"a"}


class MidForwardContract:
    """What they may also rely on when forwards of the lane can be preempted."""

    def test_canceled_in_the_middle_of_a_forward_a_request_ends_at_once(self, case: LaneCase) -> None:
        case.admit("a")
        case.step_into_a_forward()
        case.lane.cancel("a")
        assert (case.lane.next_step(), case.lane.mid_forward) == (None, False)
        assert case.step() == [Canceled("a")]
        assert not case.lane.has_work()
        assert succeeded(case.play("b")) == {"b"}

    def test_a_forward_goes_on_for_the_requests_that_are_left(self, case: LaneCase) -> None:
        case.play("proved", "as well")
        case.admit("a", "b")
        while case.step_into_a_forward().rows < 2:
            pass
        case.lane.cancel("a")
        next_step = case.lane.next_step()
        assert case.lane.mid_forward
        assert next_step is not None
        assert next_step.request_ids == ("b",)
        case.play("late")
        assert case.ends()["a"] == Canceled("a")
        assert succeeded(case.ends()) == {"proved", "as well", "b", "late"}

    def test_a_request_that_comes_in_the_middle_of_a_forward_waits_for_the_next_one(self, case: LaneCase) -> None:
        case.admit("a")
        component = case.step_into_a_forward().component
        case.admit("late")
        case.lane.take_costs()
        while not (costs := [note for note in case.lane.take_costs() if isinstance(note, StepCost)]):
            case.step()
        assert [(cost.component, cost.request_ids) for cost in costs] == [(component, ("a",))]
        assert succeeded(case.play()) == {"a", "late"}

    def test_a_component_in_use_by_a_forward_is_not_parked(self, case: LaneCase) -> None:
        case.admit("a")
        component = case.step_into_a_forward().component
        assert case.lane.park([component]) == 0
        assert component in case.lane.components
        assert succeeded(case.play()) == {"a"}


def _parameters(function: Any) -> list[tuple[str, Any]]:
    return [(parameter.name, parameter.default) for parameter in inspect.signature(function).parameters.values()]


# The lanes


def fake_case(kind: str) -> LaneCase:
    weights = {"model": 100} if kind == "chat" else {"text_encoder": 40, "transformer": 60}
    bad = {"bad": Failed("bad", "model_error", "It broke.")}
    cache = {"cache_bytes": 50, "bytes_per_chat": 10} if kind == "chat" else {}
    lane = FakeLane(kind, weights, blocks=3, fails=bad, **cache)  # type: ignore[arg-type]  # a kind, and two numbers

    def wanted(name: str) -> Request:
        return chat(name) if kind == "chat" else request(FAMILIES["sd15"], name)

    return LaneCase(lane, wanted, wanted, "model_error", lambda: not lane.closed, preemptible=kind != "chat")


def diffusion_case(device_name: str, family_name: str = "sd15", task: Task = "text") -> LaneCase:
    """task: what a request starts from: a text alone, a picture, or a picture with a mask."""
    family = FAMILIES[family_name]
    pipeline = family.build()
    pipeline.set_progress_bar_config(disable=True)
    if device_name != "cpu":
        pipeline.to(device_name)
    lane = DiffusionLane(pipeline, kind=family.kind, device_name=device_name)
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer

    given = picture_fields(task)

    def failing(name: str) -> Request:
        return request(family, name, **{**given, "call": {**family.call, "sharpness": 3}})

    def wanted(name: str) -> Request:
        return request(family, name, **given)

    return LaneCase(lane, wanted, failing, "bad_request", _any_alive(denoiser.parameters()), preemptible=True)


def chat_case(
    device_name: str, merging: Merging = "on", *, static: bool = False, n_prompt_logprobs: int | None = None
) -> LaneCase:
    """static: by static decode steps, which are CUDA graphs on a GPU. n_prompt_logprobs: of each request."""
    model = tiny_model()
    if device_name != "cpu":
        model.to(device_name)
    lane = tiny_lane(
        model, cache_bytes=CACHE_BYTES[device_name], max_running=2, merging=merging, decode=DecodeOptions(static)
    )

    def failing(name: str) -> Request:
        return chat(name, "x" * 2_000)

    def wanted(name: str) -> ChatRequest:
        return replace(chat(name), n_prompt_logprobs=n_prompt_logprobs)

    return LaneCase(lane, wanted, failing, "context_overflow", _any_alive(model.parameters()), preemptible=False)


def vision_case(device_name: str, *, static: bool = False) -> LaneCase:
    """A vision-language model. Chats whose names end in an odd letter have a picture. static: see `chat_case`."""
    model, processor = tiny_vision_model("qwen2_5_vl")
    if device_name != "cpu":
        model.to(device_name)
    tokenizer = processor.tokenizer
    tokenizer.chat_template = processor.chat_template
    pictures = PictureReader(processor, tokenizer)
    options: dict[str, Any] = {"cache_bytes": 2 * CACHE_BYTES[device_name], "max_running": 2, "takes_images": True}
    lane = ChatLane(model, tokenizer, decode=DecodeOptions(static), **options)

    def asked_about(name: str, text: str) -> ChatRequest:
        images = (MessageImage(0, picture(32, 24)),) if ord(name[-1]) % 2 else ()
        prompt = read_prompt(tokenizer, [Message("user", text, images=images)], pictures=pictures)
        return ChatRequest(id=name, prompt=prompt, max_tokens=12)

    def failing(name: str) -> Request:
        return asked_about(name, "x" * 4_000)

    def wanted(name: str) -> ChatRequest:
        return asked_about(name, f"hello {name}")

    return LaneCase(lane, wanted, failing, "context_overflow", _any_alive(model.parameters()), preemptible=False)


def embedding_case(device_name: str, merging: Merging = "on") -> LaneCase:
    """Texts of widths that do not share a forward with each other, only with the same ones of other requests."""
    encoder = tiny_encoders.tiny_encoder()
    if device_name != "cpu":
        encoder.to(device_name)
    lane = tiny_encoders.tiny_lane(encoder, merging=merging)

    def wanted(name: str) -> EmbeddingRequest:
        lengths = (5, 20, 50, 90)
        texts = tuple(TextTokens((1, *(5 + i % 70 for i in range(n)), 2)) for n in lengths)
        return EmbeddingRequest(id=name, texts=texts)

    def failing(name: str) -> EmbeddingRequest:
        return EmbeddingRequest(id=name, texts=(TextTokens((1, 10_000, 2)),))

    return LaneCase(lane, wanted, failing, "bad_request", _any_alive(encoder.parameters()), preemptible=True)


def chat(name: str, text: str = "") -> ChatRequest:
    return ChatRequest(id=name, prompt=asked(tiny_tokenizer(), text or f"hello {name}"), max_tokens=12)


def _any_alive(tensors: Iterable[Any]) -> Callable[[], bool]:
    references = [weakref.ref(tensor) for tensor in tensors]
    return lambda: any(reference() is not None for reference in references)
