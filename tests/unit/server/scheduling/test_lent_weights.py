"""Adapters of loaded models: room is made before a job that borrows one begins, and idle ones leave."""

from __future__ import annotations

import math

from pipelines.diffusion_interface import Adapter, Control, DiffusionRequest, Inputs, MediaFile
from pipelines.interface import GRAPHS
from server.job import Job
from server.memory.ledger import Ledger
from server.protocol import KeepAlive
from server.scheduling.actions import Admit, DropAdapters, Evict, Load, ModelFacts, Step, Wait
from server.scheduling.scheduler import Scheduler

FACTS = {
    "image": ModelFacts("image", "image", need_bytes=60, max_running=4, keep_alive_s=1000),
    "other": ModelFacts("other", "image", need_bytes=30, max_running=4, keep_alive_s=1000),
    "canny": ModelFacts("canny", "adapter", need_bytes=20, max_running=1, keep_alive_s=50),
    "depth": ModelFacts("depth", "adapter", need_bytes=20, max_running=1, keep_alive_s=50),
}
MAP = MediaFile("map.png", "0" * 64, 8, 8)
CANNY = Adapter("canny", "controlnet", "canny", n_bytes=20)
DEPTH = Adapter("depth", "controlnet", "depth", n_bytes=20)


def scheduler(capacity: int = 100) -> Scheduler:
    """One in which the model "image" is loaded."""
    s = Scheduler(Ledger(name="gpu", capacity_bytes=capacity), FACTS.__getitem__, min_residency_s=0)
    loaded(s, "image")
    return s


def loaded(s: Scheduler, model: str) -> None:
    s.ledger.book(model, "weights", FACTS[model].need_bytes)
    s.loaded(model, now=0, load_s=0.0)
    s.placed(model, {"unet": FACTS[model].need_bytes}, {})


def job(job_id: str, *adapters: Adapter, model: str = "image") -> Job:
    request = DiffusionRequest(
        id=f"{job_id}/0", prompt="", negative_prompt=None, width=8, height=8, num_frames=None, steps=3,
        guidance_scale=None, seed=1, inputs=Inputs(controls=tuple(Control(MAP, adapter) for adapter in adapters)),
    )  # fmt: skip
    return Job(id=job_id, owner="a", type="image", model=model, requests=(request,))


def begun(s: Scheduler, new: Job, now: float = 0) -> None:
    s.add(new, now)
    assert s.next_action(now) == Admit(new)
    s.admitted(new, now)


def held(s: Scheduler, *adapters: Adapter, model: str = "image") -> None:
    """The model's lane has loaded what its jobs borrow."""
    s.placed(model, {"unet": FACTS[model].need_bytes} | {each.component: each.n_bytes for each in adapters}, {})


def ended(s: Scheduler, job_id: str, now: float, model: str = "image") -> None:
    s.stepped(model, now, 1.0)
    assert s.request_ended(job_id, model)


def dropped(s: Scheduler, action: object, now: float, *left: Adapter) -> None:
    assert isinstance(action, DropAdapters)
    held(s, *left, model=action.model)
    s.adapters_dropped(action.model, action.components, now)


def test_bytes_of_an_adapter_are_booked_from_admission_to_its_end() -> None:
    s = scheduler()

    begun(s, job("a", CANNY))
    assert s.ledger.held_by("image") == 80, "before its lane has loaded it"
    held(s, CANNY)
    assert s.ledger.held_by("image") == 80
    ended(s, "a", now=5)
    dropped(s, s.next_action(60), 60)

    assert s.ledger.held_by("image") == 60
    assert sum(holder.n_bytes for holder in s.ledger.status().holders) == s.ledger.status().used_bytes == 60


def test_an_adapter_leaves_when_its_own_keep_alive_is_over_also_while_other_jobs_run() -> None:
    s = scheduler()
    begun(s, job("a", CANNY))
    held(s, CANNY)
    ended(s, "a", now=5)
    begun(s, job("b"), now=10)

    assert s.next_action(54) == Step("image")
    assert s.next_action(55) == DropAdapters("image", (CANNY.component,))


def test_the_next_expiry_of_an_adapter_ends_a_wait() -> None:
    s = scheduler()
    begun(s, job("a", CANNY))
    held(s, CANNY)
    ended(s, "a", now=5)

    assert s.next_action(6) == Wait(55)


def test_a_changed_keep_alive_keeps_an_adapter_for_ever() -> None:
    s = scheduler()
    begun(s, job("a", CANNY))
    held(s, CANNY)
    ended(s, "a", now=5)

    s.handle(KeepAlive("canny", math.inf), 6)

    assert s.next_action(500) == Wait(1005), "when the model itself leaves"


def test_a_job_that_uses_a_held_adapter_again_needs_no_more_bytes() -> None:
    s = scheduler(capacity=80)
    begun(s, job("a", CANNY))
    held(s, CANNY)

    begun(s, job("b", CANNY))

    assert s.ledger.booked_bytes == 80
    ended(s, "a", now=5)
    assert s.next_action(500) != DropAdapters("image", (CANNY.component,)), "the other job still uses it"


def test_an_idle_adapter_makes_room_for_another_of_the_same_model() -> None:
    s = scheduler(capacity=90)
    begun(s, job("a", CANNY))
    held(s, CANNY)
    ended(s, "a", now=5)
    new = job("b", DEPTH)
    s.add(new, 6)

    drop = s.next_action(6)
    assert drop == DropAdapters("image", (CANNY.component,))
    dropped(s, drop, 6)

    assert s.next_action(6) == Admit(new)


def test_a_job_waits_while_running_jobs_hold_the_memory_that_its_adapter_needs() -> None:
    s = scheduler(capacity=90)
    begun(s, job("a", CANNY))
    held(s, CANNY)
    new = job("b", DEPTH)
    s.add(new, 1)
    assert s.next_action(1) == Step("image")

    ended(s, "a", now=5)

    assert s.next_action(5) == DropAdapters("image", (CANNY.component,))


def test_another_model_is_evicted_for_an_adapter_that_does_not_fit_beside_it() -> None:
    s = scheduler(capacity=100)
    loaded(s, "other")
    new = job("a", CANNY)
    s.add(new, 5)

    assert s.next_action(5) == Evict("other")


def test_idle_adapters_leave_before_a_model_that_is_idle_too() -> None:
    s = scheduler(capacity=105)
    begun(s, job("a", CANNY))
    held(s, CANNY)
    ended(s, "a", now=5)
    s.add(job("b", model="other"), 6)

    drop = s.next_action(6)
    assert drop == DropAdapters("image", (CANNY.component,))


def test_recorded_forwards_leave_before_idle_adapters() -> None:
    s = scheduler(capacity=111)
    begun(s, job("a", CANNY))
    held(s, CANNY)
    ended(s, "a", now=5)
    s.placed("image", {**s.residents["image"].components, GRAPHS: 10}, {})
    s.add(job("b", model="other"), 6)

    drop = s.next_action(6)
    assert drop == DropAdapters("image", (GRAPHS,))
    dropped(s, drop, 6, CANNY)

    assert s.next_action(6) == Load("other")


def test_an_adapter_that_could_not_be_loaded_is_not_booked_any_more() -> None:
    s = scheduler()
    begun(s, job("a", CANNY))

    ended(s, "a", now=5)  # its lane failed the request, and holds nothing new

    assert s.ledger.booked_bytes == 60
    assert s.next_action(500) == Wait(1005)


def test_an_adapter_that_does_not_fit_at_all_ends_its_job_alone() -> None:
    s = scheduler(capacity=70)
    big = job("a", CANNY)
    s.add(big, 0)

    assert s.next_action(0) == Admit(big), "nothing can be freed: its lane tries, and fails the job if it must"
    s.admitted(big, 0)
    assert s.ledger.booked_bytes == 70, "no more than there is"


def test_evicting_a_model_frees_its_adapters_with_it() -> None:
    s = scheduler()
    begun(s, job("a", CANNY))
    held(s, CANNY)
    ended(s, "a", now=5)

    s.ledger.release("image")
    s.evicted("image")

    assert s.ledger.booked_bytes == 0
    s.add(job("b", CANNY), 6)
    assert s.next_action(6) == Load("image")
