"""Loads, unparks and cancellations under memory pressure: nothing is retried for ever, and other jobs go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.diffusion_interface import Adapter, Control, Inputs, MediaFile
from pipelines.interface import Failed
from server.memory.ledger import Reading
from server.protocol import Cancel, JobCanceled, JobFailed, KeepAlive, LoadModel, Peak, Pin, Submit
from server.scheduling.actions import Action, DropAdapters, Load, Park, ResizeCache, Step, Unpark, Wait
from tests.support.jobs import job
from tests.support.lanes.fake_lane import FakeLane
from tests.support.threadless_executor import ThreadlessExecutor


@dataclass
class FragmentedLane(FakeLane):
    """Its first `failures` unparks run out of memory, as on a fragmented device."""

    failures: float = float("inf")
    tries: int = 0

    def unpark(self, names: Sequence[str]) -> int:
        self.tries += 1
        if self.tries <= self.failures:
            raise MemoryError("fragmented")
        return super().unpark(names)


def device_with_parked_work(parked: FakeLane) -> ThreadlessExecutor:
    """Model `clip` was parked with its running job for `other`, which is working; `small` is loaded and idle."""
    lanes = {"clip": parked, "other": FakeLane(weights={"model": 600}), "small": FakeLane(weights={"model": 100})}
    device = ThreadlessExecutor(lanes, host_bytes=1500, sizes={"clip": 600, "other": 600}, turn_s=1.0)
    device.send(LoadModel("small"))
    device.turns(2)
    device.send(Submit(job("clip", "clip", steps=100), 0.0))
    device.until(lambda action: isinstance(action, Step))
    device.send(Submit(job("other", "other", steps=1000), device.now))
    device.until(lambda action: action == Park("clip", ("model",)))
    device.until(lambda action: isinstance(action, Step) and action.model == "other")
    return device


def unparks(actions: Sequence[Action]) -> int:
    return sum(isinstance(action, Unpark) and action.model == "clip" for action in actions)


def test_an_unpark_that_runs_out_of_memory_is_tried_twice_then_the_job_fails_and_others_go_on() -> None:
    lane = FragmentedLane(weights={"model": 600})
    device = device_with_parked_work(lane)
    device.actions.clear()
    device.turns(400)

    assert (lane.tries, unparks(device.actions)) == (2, 2)
    assert [(event.job_id, event.code) for event in device.of(JobFailed)] == [("clip", "out_of_memory")]
    assert sum(action == Step("other", 1) for action in device.actions) > 380
    assert "clip" not in device.scheduler.residents, "a model that cannot be unparked is evicted"
    assert lane.closed


def test_an_unpark_that_succeeds_at_the_second_try_loses_no_work() -> None:
    lane = FragmentedLane(weights={"model": 600}, failures=1)
    device = device_with_parked_work(lane)
    device.until(lambda action: isinstance(action, Step) and action.model == "clip")

    assert (lane.tries, device.of(JobFailed)) == (2, [])
    assert "other" not in device.scheduler.residents or device.scheduler.residents["other"].parked


def test_a_canceled_job_of_a_parked_model_ends_at_once_and_moves_no_weights() -> None:
    device = device_with_parked_work(FakeLane(weights={"model": 600}))
    device.actions.clear()
    device.send(Cancel("clip"))

    assert device.of(JobCanceled) == [JobCanceled("clip")]
    assert not device.scheduler.residents["clip"].running
    device.turns(50)
    assert all(isinstance(action, Step) and action.model == "other" for action in device.actions)


def test_when_one_request_of_a_job_fails_the_other_requests_end_too() -> None:
    lane = FakeLane(weights={"model": 100})
    device = ThreadlessExecutor({"m": lane})
    submitted = job("a", "m", n=3, steps=5)
    device.send(Submit(submitted, 0.0))
    device.until(lambda action: isinstance(action, Step))
    failing = submitted.requests[0].id
    lane.fails[failing] = Failed(failing, "model_error", "No.")
    device.turn()

    assert [event.job_id for event in device.of(JobFailed)] == ["a"]
    assert not device.scheduler.residents["m"].running


def test_a_load_that_ran_out_of_memory_is_tried_again_although_other_programs_hold_some_of_it() -> None:
    """It waits for all memory that can become free, which is less than the whole device."""
    lanes = {"small": FakeLane(weights={"model": 200}), "large": FakeLane(weights={"model": 500})}

    def reading() -> Reading:
        held = sum(lane.weight_bytes for lane in device.executor.lanes.values())
        return Reading(free_bytes=1000 - 250 - held, ours_bytes=held)  # other programs hold 250

    device = ThreadlessExecutor(lanes, sizes={"small": 200, "large": 500}, reading=reading, turn_s=1.0)
    device.load_failures = {"large": [MemoryError("fragmented")]}
    device.send(LoadModel("small"))
    device.until(lambda action: isinstance(action, Load))
    device.send(Submit(job("j", "large", steps=1), device.now))
    device.until(lambda action: isinstance(action, Step) and action.model == "large", most=60)

    assert device.of(JobFailed) == []


def test_a_model_is_loaded_beside_a_pinned_one_although_no_memory_is_left_for_its_measured_activations() -> None:
    """Memory for activations is required only where it could ever become free."""
    lanes = {"pinned": FakeLane(weights={"model": 600}), "m": FakeLane(weights={"model": 390})}
    device = ThreadlessExecutor(lanes, sizes={"pinned": 600, "m": 390})
    device.scheduler.peaks.record(Peak("m", "model.forward", "8x8x1", 64, 1, 50))
    device.send(Pin("pinned", True), LoadModel("pinned"))
    device.turns(3)
    device.send(Submit(job("j", "m", steps=1), device.now))

    device.until(lambda action: isinstance(action, Step) and action.model == "m", most=20)
    assert isinstance(device.turns(3)[-1], Wait)


def test_a_kv_cache_that_a_lane_cut_by_itself_is_booked_at_its_size_and_grows_back() -> None:
    """As a chat lane does when it runs out of memory: the bytes must be free for others, and come back to it later."""
    lane = FakeLane("chat", {"model": 100}, cache_bytes=50, reply_steps=2000)
    device = ThreadlessExecutor({"m": lane}, sizes={"m": 150}, turn_s=1.0)
    device.send(Submit(job("chat", "m", type_="chat"), 0.0))
    device.until(lambda action: isinstance(action, Step))
    lane.cache_bytes = 0  # freed, to be made anew in the next step
    device.turn()
    assert device.scheduler.ledger.held_by("m", "kv_cache") == 50
    lane.cache_bytes = 20
    device.turn()
    assert device.scheduler.ledger.held_by("m", "kv_cache") == 20

    assert device.until(lambda action: isinstance(action, ResizeCache)) == ResizeCache("m", 50)
    assert device.scheduler.ledger.held_by("m", "kv_cache") == 50


def test_an_idle_adapter_is_dropped_from_its_lane_when_another_model_needs_the_memory() -> None:
    canny = Adapter("canny", "controlnet", "canny", n_bytes=200)
    lane = FakeLane(weights={canny.component: 200, "model": 500})  # as if its first job had loaded the adapter
    lanes = {"painter": lane, "other": FakeLane(weights={"model": 400})}
    device = ThreadlessExecutor(lanes, sizes={"painter": 500, "other": 400}, turn_s=1.0)
    plain = job("a", "painter")
    control = Inputs(controls=(Control(MediaFile("map.png", "0" * 64, 8, 8), canny),))
    borrowing = replace(plain, requests=tuple(replace(each, inputs=control) for each in plain.requests))
    device.send(KeepAlive("canny", math.inf), Submit(borrowing, 0.0))
    device.until(lambda action: isinstance(action, Wait))
    assert device.scheduler.ledger.held_by("painter") == 700

    device.send(Submit(job("b", "other"), device.now))
    device.until(lambda action: isinstance(action, Step) and action.model == "other")

    assert DropAdapters("painter", (canny.component,)) in device.actions
    assert dict(lane.components) == {"model": 500}
    assert not lane.closed
    status = device.scheduler.ledger.status()
    assert sum(holder.n_bytes for holder in status.holders) == status.used_bytes == 900
