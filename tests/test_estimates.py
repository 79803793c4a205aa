"""Estimates come from measured times only, and count what is ahead."""

from pipelines.interface import ChatRequest, DiffusionRequest, StepCost
from server.estimates import Estimates
from server.jobs import Job


def request(name: str, steps: int = 10, width: int = 8) -> DiffusionRequest:
    return DiffusionRequest(
        id=name,
        prompt="",
        negative_prompt=None,
        width=width,
        height=8,
        num_frames=None,
        steps=steps,
        guidance_scale=None,
        seed=0,
    )


def job(name: str, steps: int = 10, width: int = 8, model: str = "m") -> Job:
    return Job(id=name, owner="a", type="image", model=model, requests=(request(name, steps, width),))


def learned() -> Estimates:
    """A step of "m" at 8x8 takes 2 s, encoding and decoding 3 s together; loading it 5 s."""
    estimates = Estimates()
    estimates.note([StepCost("8x8x1", 1, 1.0, ("x",), "encoding"), StepCost("8x8x1", 1, 2.0, ("x",), "decoding")])
    for step in range(1, 5):
        estimates.note([StepCost("8x8x1", 1, 2.0, ("x",), "denoising")])
        estimates.progressed("x", step)
    estimates.finished("m", request("x", 4))
    estimates.loaded("m", 5.0)
    return estimates


def test_a_shape_never_run_to_the_end_has_no_estimate() -> None:
    estimates = learned()

    assert estimates.remaining_s(job("j", width=16)) is None
    assert estimates.remaining_s(job("j", model="other")) is None


def test_what_is_left_is_steps_to_go_and_the_rest() -> None:
    estimates = learned()
    assert estimates.remaining_s(job("j")) == 23.0

    estimates.note([StepCost("8x8x1", 1, 1.0, ("j",), "encoding"), StepCost("8x8x1", 1, 2.0, ("j",), "denoising")])
    estimates.progressed("j", 1)

    assert estimates.remaining_s(job("j")) == 20.0


def test_a_shared_forward_counts_for_each_by_its_share() -> None:
    estimates = Estimates()
    for step in range(1, 3):
        estimates.note([StepCost("8x8x1", 4, 8.0, ("a", "b", "c", "d"), "denoising")])
        estimates.progressed("a", step)
    estimates.finished("m", request("a", 2))

    assert estimates.remaining_s(job("j", steps=10)) == 20.0


def test_running_jobs_share_the_device_and_waiting_ones_come_after_them() -> None:
    short, long, waiting = job("s", steps=1), job("l", steps=10), job("w", steps=1)

    of_running, of_waiting = learned().etas_s([short, long], [waiting], frozenset({"m"}))

    assert of_running == [10.0, 28.0]  # both need 5 s and 23 s: the short one is done when each had 5
    assert of_waiting == [33.0]


def test_the_first_job_of_a_model_that_is_not_there_waits_for_its_load_too() -> None:
    _, of_waiting = learned().etas_s([], [job("a", steps=1), job("b", steps=1)], frozenset())

    assert of_waiting == [10.0, 15.0]


def test_behind_a_job_without_an_estimate_there_is_none() -> None:
    _, of_waiting = learned().etas_s([], [job("a", width=16), job("b")], frozenset({"m"}))

    assert of_waiting == [None, None]


def test_a_chat_has_no_estimate() -> None:
    chat = Job(id="c", owner="a", type="chat", model="m", requests=(ChatRequest(id="c", messages=(), max_tokens=9),))

    assert learned().remaining_s(chat) is None
