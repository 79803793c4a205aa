"""Models that come and go under memory pressure: nothing is tried for ever, and nobody else pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.interface import Failed
from server.memory.ledger import Reading
from server.protocol import Cancel, JobCanceled, JobFailed, LoadModel, Peak, Pin, Submit
from server.scheduling.actions import Action, Load, Park, Step, Unpark, Wait
from tests.support.fake_lane import FakeLane
from tests.support.hand_driven import HandDriven
from tests.support.jobs import job


@dataclass
class StubbornLane(FakeLane):
    """Its weights do not fit back after they were parked, as on a fragmented device; after `gives_in` tries they do."""

    gives_in: float = float("inf")
    tries: int = 0

    def unpark(self, names: Sequence[str]) -> int:
        self.tries += 1
        if self.tries <= self.gives_in:
            raise MemoryError("fragmented")
        return super().unpark(names)


def two_lanes_of_which_one_is_parked(parked: FakeLane) -> HandDriven:
    """`clip` was parked with its work for `other`, which goes on working. `small` is idle on the device all the time."""
    lanes = {"clip": parked, "other": FakeLane(weights={"model": 600}), "small": FakeLane(weights={"model": 100})}
    device = HandDriven(lanes, host_bytes=1500, sizes={"clip": 600, "other": 600}, turn_s=1.0)
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


def test_a_working_model_that_does_not_fit_back_is_tried_twice_and_then_fails_while_others_go_on() -> None:
    lane = StubbornLane(weights={"model": 600})
    device = two_lanes_of_which_one_is_parked(lane)
    device.actions.clear()
    device.turns(400)

    assert (lane.tries, unparks(device.actions)) == (2, 2)
    assert [(event.job_id, event.code) for event in device.of(JobFailed)] == [("clip", "out_of_memory")]
    assert sum(action == Step("other", 1) for action in device.actions) > 380
    assert "clip" not in device.scheduler.residents, "what cannot come back is evicted"
    assert lane.closed


def test_a_working_model_that_fits_back_once_the_others_have_left_loses_no_work() -> None:
    lane = StubbornLane(weights={"model": 600}, gives_in=1)
    device = two_lanes_of_which_one_is_parked(lane)
    device.until(lambda action: isinstance(action, Step) and action.model == "clip")

    assert (lane.tries, device.of(JobFailed)) == (2, [])
    assert "other" not in device.scheduler.residents or device.scheduler.residents["other"].parked


def test_a_canceled_job_whose_model_is_parked_ends_at_once_and_moves_no_weights() -> None:
    device = two_lanes_of_which_one_is_parked(FakeLane(weights={"model": 600}))
    device.actions.clear()
    device.send(Cancel("clip"))

    assert device.of(JobCanceled) == [JobCanceled("clip")]
    assert not device.scheduler.residents["clip"].running
    device.turns(50)
    assert all(isinstance(action, Step) and action.model == "other" for action in device.actions)


def test_a_failed_job_ends_its_other_requests_although_the_component_they_need_next_is_parked() -> None:
    lane = FakeLane(weights={"model": 100})
    device = HandDriven({"m": lane})
    one = job("a", "m", n=3, steps=5)
    device.send(Submit(one, 0.0))
    device.until(lambda action: isinstance(action, Step))
    lane.fails[one.requests[0].id] = Failed(one.requests[0].id, "model_error", "No.")
    device.turn()

    assert [event.job_id for event in device.of(JobFailed)] == ["a"]
    assert not device.scheduler.residents["m"].running


def test_a_load_that_ran_out_of_memory_is_tried_again_although_other_programs_keep_some_of_it() -> None:
    """What cannot be had is not waited for: once the idle model has left, all that there is is free."""
    lanes = {"small": FakeLane(weights={"model": 200}), "large": FakeLane(weights={"model": 500})}
    failures = [MemoryError("fragmented")]

    def reading() -> Reading:
        held = sum(lane.weight_bytes for lane in device.executor.lanes.values())
        return Reading(free_bytes=1000 - 250 - held, ours_bytes=held)  # other programs hold 250

    device = HandDriven(lanes, sizes={"small": 200, "large": 500}, reading=reading, turn_s=1.0)
    device.fails_to_load = {"large": failures}
    device.send(LoadModel("small"))
    device.until(lambda action: isinstance(action, Load))
    device.send(Submit(job("j", "large", steps=1), device.now))
    device.until(lambda action: isinstance(action, Step) and action.model == "large", most=60)

    assert device.of(JobFailed) == []


def test_a_job_that_waits_for_memory_of_another_program_starts_once_that_program_is_gone() -> None:
    """No message tells of it: the engine has to look again by itself."""
    others = [800]
    device = HandDriven(
        {"m": FakeLane(weights={"model": 500})}, sizes={"m": 500}, reading=lambda: Reading(1000 - others[0], 0)
    )
    device.send(Submit(job("j", "m", steps=1), 0.0))
    waits = device.turn()
    assert isinstance(waits, Wait)
    assert waits.until is not None
    assert waits.until <= device.now + 1.0
    others[0] = 0

    device.until(lambda action: isinstance(action, Step), most=5)


def test_a_model_fits_beside_a_pinned_one_although_no_room_for_activations_is_left_over() -> None:
    """Room for activations is asked for only where it could ever become free."""
    lanes = {"pinned": FakeLane(weights={"model": 600}), "m": FakeLane(weights={"model": 390})}
    device = HandDriven(lanes, sizes={"pinned": 600, "m": 390})
    device.scheduler.peaks.note(Peak("m", "model.forward", "8x8x1", 64, 1, 50))
    device.send(Pin("pinned", True), LoadModel("pinned"))
    device.turns(3)
    device.send(Submit(job("j", "m", steps=1), device.now))

    device.until(lambda action: isinstance(action, Step) and action.model == "m", most=20)
    assert isinstance(device.turns(3)[-1], Wait)
