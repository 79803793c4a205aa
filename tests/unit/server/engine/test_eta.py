"""Estimates come from measured times only, and count what is ahead."""

from pipelines.interface import ChatRequest, DiffusionRequest, LaneStage, StepCost
from server.engine.eta import Estimates
from server.job import Job


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


def cost(stage: LaneStage, *ids: str, shape: str = "8x8x1") -> StepCost:
    return StepCost(shape, len(ids), 1.0, ids, stage)


def learned() -> Estimates:
    """A picture of "m" at 8x8 is encoded once, takes two forwards a step, and is decoded once."""
    estimates = Estimates()
    estimates.note([cost("encoding", "x", shape="77"), *[cost("denoising", "x")] * 8, cost("decoding", "x")])
    estimates.finished("m", request("x", 4))
    return estimates


def test_a_shape_never_run_to_the_end_has_no_estimate() -> None:
    assert learned().ahead(job("j", width=16)) is None
    assert learned().ahead(job("j", model="other")) is None


def test_what_is_ahead_is_the_forwards_of_such_a_request_and_as_many_more_as_it_has_steps() -> None:
    assert learned().ahead(job("j")) == ((("encoding 77", 1), ("denoising 8x8x1", 20), ("decoding 8x8x1", 1)),)


def test_what_was_run_is_no_longer_ahead_though_its_prompt_was_longer() -> None:
    estimates = learned()
    estimates.note([cost("encoding", "j", shape="154"), cost("denoising", "j"), cost("denoising", "j")])

    assert estimates.ahead(job("j")) == ((("denoising 8x8x1", 18), ("decoding 8x8x1", 1)),)


def test_a_prompt_that_was_not_read_anew_is_no_longer_ahead_once_the_steps_have_begun_and_is_for_the_next_one() -> None:
    estimates = learned()
    estimates.note([cost("denoising", "j")] * 2)
    assert estimates.ahead(job("j")) == ((("denoising 8x8x1", 18), ("decoding 8x8x1", 1)),)

    estimates.note([*[cost("denoising", "j")] * 18, cost("decoding", "j")])
    estimates.finished("m", request("j"))
    assert estimates.ahead(job("k")) == ((("encoding 77", 1), ("denoising 8x8x1", 20), ("decoding 8x8x1", 1)),)


def test_a_request_that_has_run_everything_is_at_its_last_stage() -> None:
    estimates = learned()
    estimates.note([cost("encoding", "j", shape="77"), *[cost("denoising", "j")] * 20, cost("decoding", "j")])

    assert estimates.ahead(job("j")) == ((("decoding 8x8x1", 0),),)


def test_a_shared_forward_counts_for_each_who_is_in_it() -> None:
    estimates = Estimates()
    estimates.note([cost("denoising", "a", "b", "c", "d")] * 2)
    estimates.finished("m", request("a", 2))

    assert estimates.ahead(job("j", steps=10)) == ((("denoising 8x8x1", 10),),)


def test_a_chat_is_as_many_forwards_as_such_replies_took() -> None:
    asked = ChatRequest(id="c", messages=(), max_tokens=9)
    chat = Job(id="c", owner="a", type="chat", model="m", requests=(asked,))
    estimates = learned()
    assert estimates.ahead(chat) is None

    estimates.note([cost("prefill", "c", shape="prefill"), *[cost("decode", "c", shape="decode")] * 6])
    estimates.finished("m", asked)

    assert estimates.ahead(chat) == ((("decode decode", 7),),)


def test_what_a_turn_takes_beside_its_forwards_is_a_factor_of_the_model() -> None:
    estimates = Estimates()
    assert estimates.drag("m") == 1.0
    estimates.turn_ended("m", 3.0, 0.0)  # the forward gave way: it ends in a later turn
    estimates.turn_ended("m", 1.0, 2.0)

    assert round(estimates.drag("m"), 1) == 2.0
