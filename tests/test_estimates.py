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
    """A step of "m" at 8x8 takes 2 s, encoding and decoding 3 s together."""
    estimates = Estimates()
    estimates.note([StepCost("8x8x1", 1, 1.0, ("x",), "encoding"), StepCost("8x8x1", 1, 2.0, ("x",), "decoding")])
    for step in range(1, 5):
        estimates.note([StepCost("8x8x1", 1, 2.0, ("x",), "denoising")])
        estimates.progressed("x", step)
    estimates.finished("m", request("x", 4))
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


def test_encoding_and_decoding_count_as_the_steps_they_take_as_long_as() -> None:
    work = learned().work(job("j"))

    assert work is not None
    assert work.forwards == (11.5,)


def test_a_chat_has_no_estimate() -> None:
    chat = Job(id="c", owner="a", type="chat", model="m", requests=(ChatRequest(id="c", messages=(), max_tokens=9),))

    assert learned().remaining_s(chat) is None


def test_what_a_turn_takes_beside_its_forwards_is_a_factor_of_the_model() -> None:
    estimates = Estimates()
    assert estimates.drag("m") == 1.0
    estimates.turned("m", 3.0, 0.0)  # the forward gave way: it ends in a later turn
    estimates.turned("m", 1.0, 2.0)

    assert round(estimates.drag("m"), 1) == 2.0
