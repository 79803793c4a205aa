"""Remaining forwards are estimated from finished requests of the same model and shape only."""

from dataclasses import replace

from pipelines.chat_interface import ChatRequest
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.embedding_interface import EmbeddingRequest, TextTokens
from pipelines.interface import LaneStage, StepCost
from server.engine.eta import Estimates
from server.job import Job
from tests.support.prompts import EMPTY


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
    """A picture of model "m" at 8x8 is encoded once, takes two forwards for each step, and is decoded once."""
    estimates = Estimates()
    estimates.record([cost("encoding", "x", shape="77"), *[cost("denoising", "x")] * 8, cost("decoding", "x")])
    estimates.finished("m", request("x", 4))
    return estimates


def test_a_shape_that_never_ran_to_its_end_has_no_estimate() -> None:
    assert learned().remaining(job("j", width=16)) is None
    assert learned().remaining(job("j", model="other")) is None


def test_a_new_request_has_the_forwards_of_a_finished_one_scaled_to_its_number_of_steps() -> None:
    assert learned().remaining(job("j")) == ((("encoding 77", 1), ("denoising 8x8x1", 20), ("decoding 8x8x1", 1)),)


def test_a_request_of_another_speed_has_forwards_for_the_steps_that_it_computes() -> None:
    estimates = Estimates()
    fast = replace(request("x", 28), speed="fast")  # it computes 10 steps
    estimates.record([*[cost("denoising", "x")] * 20, cost("decoding", "x")])
    estimates.finished("m", fast)

    assert estimates.remaining(job("j", 28)) == ((("denoising 8x8x1", 56), ("decoding 8x8x1", 1)),)


def test_forwards_that_ran_no_longer_remain_even_if_the_prompt_was_longer() -> None:
    estimates = learned()
    estimates.record([cost("encoding", "j", shape="154"), cost("denoising", "j"), cost("denoising", "j")])

    assert estimates.remaining(job("j")) == ((("denoising 8x8x1", 18), ("decoding 8x8x1", 1)),)


def test_a_cached_prompt_does_not_remain_once_denoising_has_begun_but_is_expected_of_the_next_request() -> None:
    estimates = learned()
    estimates.record([cost("denoising", "j")] * 2)
    assert estimates.remaining(job("j")) == ((("denoising 8x8x1", 18), ("decoding 8x8x1", 1)),)

    estimates.record([*[cost("denoising", "j")] * 18, cost("decoding", "j")])
    estimates.finished("m", request("j"))
    assert estimates.remaining(job("k")) == ((("encoding 77", 1), ("denoising 8x8x1", 20), ("decoding 8x8x1", 1)),)


def test_a_request_that_ran_all_its_forwards_is_at_its_last_stage() -> None:
    estimates = learned()
    estimates.record([cost("encoding", "j", shape="77"), *[cost("denoising", "j")] * 20, cost("decoding", "j")])

    assert estimates.remaining(job("j")) == ((("decoding 8x8x1", 0),),)


def test_a_shared_forward_counts_for_each_request_that_shares_it() -> None:
    estimates = Estimates()
    estimates.record([cost("denoising", "a", "b", "c", "d")] * 2)
    estimates.finished("m", request("a", 2))

    assert estimates.remaining(job("j", steps=10)) == ((("denoising 8x8x1", 10),),)


def test_a_chat_has_as_many_forwards_as_earlier_replies_took() -> None:
    chat_request = ChatRequest(id="c", prompt=EMPTY, max_tokens=9)
    chat = Job(id="c", owner="a", type="chat", model="m", requests=(chat_request,))
    estimates = learned()
    assert estimates.remaining(chat) is None

    estimates.record([cost("prefill", "c", shape="prefill"), *[cost("decode", "c", shape="decode")] * 6])
    estimates.finished("m", chat_request)

    assert estimates.remaining(chat) == ((("decode decode", 7),),)


def test_the_time_that_turns_take_beside_their_forwards_is_a_factor_of_the_model() -> None:
    estimates = Estimates()
    assert estimates.overhead_factor("m") == 1.0
    estimates.turn_ended("m", 3.0, 0.0)  # the forward was suspended: it ends in a later turn
    estimates.turn_ended("m", 1.0, 2.0)

    assert round(estimates.overhead_factor("m"), 1) == 2.0


def embedding(name: str, *lengths: int) -> Job:
    request = EmbeddingRequest(id=name, texts=tuple(TextTokens((1,) * n) for n in lengths))
    return Job(id=name, owner="a", type="embedding", model="m", requests=(request,))


def test_an_embedding_has_a_part_of_a_forward_for_each_text_once_one_has_run() -> None:
    estimates = Estimates()
    assert estimates.remaining(embedding("j", 5)) is None
    first = embedding("x", 60)
    estimates.record([cost("encoding", "x", shape="64 tokens")])
    estimates.finished("m", first.requests[0])

    assert estimates.remaining(embedding("j", 60, 61)) == ((("encoding 64 tokens", 2.0),),)
    assert estimates.remaining(embedding("j", 120)) == ((("encoding 64 tokens", 120 / 64),),), "of the nearest width"
    estimates.record([cost("encoding", "j", "j", shape="64 tokens")])
    assert estimates.remaining(embedding("j", 60, 60, 60, 60)) == ((("encoding 64 tokens", 2.0),),)
