"""Stock pipelines of eight families in the lane give what the pipeline gives when it is called directly.

Tolerances are for pixels in [0, 1] before they are rounded to 8 bits. Measured: 0 alone, at most 4e-6 merged.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.batching.preemption import repeated_blocks
from pipelines.batching.tiles import in_tiles
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion.outcome import IN_TILES
from pipelines.interface import Canceled, Failed, OutOfMemory, Progressed, Rendered, StepCost, Update
from tests.support.lanes.faults import out_of_memory
from tests.support.lanes.lane_play import direct, ends, gap, mixed_four, play, rendered, request
from tests.support.lanes.stock_families import FAMILIES, Family

MERGED = 1e-4
SD = FAMILIES["sd15"]
WAN = FAMILIES["wan"]

# Some stock models warn that they are deprecated.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


QUICK = ("sd15", "wan")  # one family of pictures and one of clips stand for all in `make check`


@pytest.fixture(
    scope="module",
    params=[pytest.param(f, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, f in FAMILIES.items()],
)
def each(request: pytest.FixtureRequest) -> tuple[Family, Any]:
    return request.param, quiet(request.param.build())


@pytest.fixture(scope="module")
def sd() -> Any:
    return quiet(SD.build())


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def lane(sd: Any) -> Iterator[DiffusionLane]:
    lane = DiffusionLane(sd, kind="image")
    yield lane
    lane.close()


def test_a_job_alone_equals_the_stock_call_bit_for_bit_and_four_batched_jobs_equal_it_but_for_rounding(
    each: tuple[Family, Any],
) -> None:
    family, pipeline = each
    four = mixed_four(family)
    expected = {wanted.id: direct(pipeline, wanted) for wanted in four}
    lane = DiffusionLane(pipeline, kind=family.kind)

    by_itself = rendered(lane, four[:1])["a"]
    proving, trusting = rendered(lane, four), rendered(lane, four)

    assert np.array_equal(by_itself.frames, expected["a"])
    assert by_itself.batch_peak == 1
    for name, frames in expected.items():
        assert gap(proving[name].frames, frames) <= MERGED
        assert gap(trusting[name].frames, frames) <= MERGED
        assert trusting[name].batch_peak == 4
        assert trusting[name].scheduler == type(pipeline.scheduler).__name__
    assert lane.merging == "on"
    lane.close()


def test_jobs_of_other_sizes_and_jobs_that_join_later_change_no_output(each: tuple[Family, Any]) -> None:
    family, pipeline = each
    a, b, wide, late = (
        request(family, "a", seed=1, steps=12),
        request(family, "b", seed=2, steps=14, prompt="a mountain"),
        request(family, "wide", seed=3, steps=4, width=family.other_size),
        request(family, "late", seed=4, steps=4, prompt="a forest at night"),
    )
    lane = DiffusionLane(pipeline, kind=family.kind)
    for wanted in (a, b, wide):
        lane.admit(wanted)
    updates = []
    while not any(isinstance(update, Progressed) and update.step == 2 for update in updates):
        updates += lane.step()
    lane.admit(late)
    done = ends([*updates, *play(lane)])
    lane.close()

    for wanted in (a, b, wide, late):
        end = done[wanted.id]
        assert isinstance(end, Rendered), end
        assert gap(end.frames, direct(pipeline, wanted)) <= MERGED
        assert end.frames.shape == (family.num_frames or 1, wanted.height, wanted.width, 3)
    assert done["late"].batch_peak > 1  # type: ignore[union-attr]  # it is Rendered, see above


def test_a_deterministic_job_equals_the_stock_call_bit_for_bit_while_others_run(each: tuple[Family, Any]) -> None:
    family, pipeline = each
    pinned = request(family, "pinned", seed=9, deterministic=True)
    lane = DiffusionLane(pipeline, kind=family.kind)
    results = rendered(lane, [request(family, "x", seed=1), pinned, request(family, "y", seed=2)])
    lane.close()

    assert np.array_equal(results["pinned"].frames, direct(pipeline, pinned))
    assert results["pinned"].batch_peak == 1


def test_the_same_request_gives_the_same_output_whatever_shares_its_batch(lane: DiffusionLane) -> None:
    wanted = request(SD, "same", seed=5)
    one = rendered(lane, [wanted])["same"].frames
    for neighbours in (1, 3, 6):
        others = [request(SD, f"n{i}", seed=100 + i, prompt="a desert", steps=2 + i % 3) for i in range(neighbours)]
        assert gap(rendered(lane, [*others, wanted])["same"].frames, one) <= MERGED


def test_at_a_constant_width_the_other_rows_do_not_change_a_single_bit(lane: DiffusionLane) -> None:
    rendered(lane, [request(SD, "same", seed=5), request(SD, "first", seed=1)])  # proved
    outputs = []
    for seed, prompt in ((1, "a city"), (2, "a red star"), (5, "a red circle on blue")):
        # Another owner each time: with a cached prompt a request would be a step ahead of the other.
        two = request(SD, "same", seed=5, owner=prompt), request(SD, "other", seed=seed, prompt=prompt, owner=prompt)
        outputs.append(rendered(lane, two)["same"])

    assert {output.batch_peak for output in outputs} == {2}
    assert all(np.array_equal(output.frames, outputs[0].frames) for output in outputs)


def test_no_job_changes_the_shared_noise_scheduler(sd: Any, lane: DiffusionLane) -> None:
    before = dict(vars(sd.scheduler))
    rendered(lane, [request(SD, "a", steps=3), request(SD, "b", steps=9)])

    assert vars(sd.scheduler) == before


def test_canceling_a_running_job_frees_its_memory_at_once_and_changes_no_other_job(
    sd: Any, lane: DiffusionLane
) -> None:
    latents: list[weakref.ref[torch.Tensor]] = []

    def keep(pipeline: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        latents.append(weakref.ref(tensors["latents"]))
        return tensors

    doomed = request(SD, "doomed", steps=50, call={"callback_on_step_end": keep})
    others = [request(SD, "a", seed=1, steps=8), request(SD, "b", seed=2, steps=9)]
    for wanted in (others[0], doomed, others[1]):
        lane.admit(wanted)
    updates = []
    while len(latents) < 3:
        updates += lane.step()
    lane.cancel("doomed")
    lane.cancel("nobody")
    gc.disable()
    try:
        at_once = lane.step()
        assert latents[-1]() is None, "freed by unwinding, not by the garbage collector"
    finally:
        gc.enable()

    assert Canceled("doomed") in at_once
    done = ends([*updates, *at_once, *play(lane)])
    assert isinstance(done["doomed"], Canceled)
    for wanted in others:
        end = done[wanted.id]
        assert isinstance(end, Rendered)
        assert gap(end.frames, direct(sd, wanted)) <= MERGED


def test_a_request_canceled_before_it_starts_never_starts(lane: DiffusionLane) -> None:
    lane.admit(request(SD, "early"))
    lane.cancel("early")

    assert play(lane) == [Canceled("early")]


def test_progress_counts_every_step_once_then_decodes(each: tuple[Family, Any]) -> None:
    family, pipeline = each
    lane = DiffusionLane(pipeline, kind=family.kind)
    lane.admit(request(family, "x", steps=4))
    told = [(u.stage, u.step, u.total_steps) for u in play(lane) if isinstance(u, Progressed)]
    lane.close()

    steps = [("denoising", step, 4) for step in range(4)]
    assert told == [("encoding", 0, 4), *steps, ("decoding", 4, 4)]


def test_an_argument_the_pipeline_does_not_take_is_a_bad_request_that_names_it(lane: DiffusionLane) -> None:
    lane.admit(request(SD, "x", call={"sharpness": 3}))
    lane.admit(request(SD, "y", call={"kwargs": 3}))
    done = ends(play(lane))

    for name, argument in (("x", "sharpness"), ("y", "kwargs")):
        end = done[name]
        assert isinstance(end, Failed)
        assert (end.code, f"'{argument}'" in end.message) == ("bad_request", True)


def test_a_value_that_the_pipeline_refuses_is_a_bad_request_without_the_exception_text(lane: DiffusionLane) -> None:
    lane.admit(request(SD, "x", width=33))
    end = ends(play(lane))["x"]

    assert isinstance(end, Failed)
    assert end.code == "bad_request"
    assert "33" in end.detail
    assert "33" not in end.message


def test_a_job_cannot_override_its_generator_or_its_output_type(lane: DiffusionLane, sd: Any) -> None:
    wanted = request(SD, "x", call={"generator": None, "output_type": "latent"})

    assert np.array_equal(rendered(lane, [wanted])["x"].frames, direct(sd, request(SD, "x")))


def test_a_job_that_raises_between_two_steps_fails_alone(sd: Any, lane: DiffusionLane) -> None:
    def explode(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            raise ValueError("a secret")
        return tensors

    lane.admit(request(SD, "bad", call={"callback_on_step_end": explode}))
    lane.admit(good := request(SD, "good"))
    done = ends(play(lane))

    bad, end = done["bad"], done["good"]
    assert isinstance(bad, Failed)
    assert (bad.code, "secret" in bad.message, "secret" in bad.detail) == ("model_error", False, True)
    assert isinstance(end, Rendered)
    assert gap(end.frames, direct(sd, good)) <= MERGED


def test_values_that_are_not_numbers_fail_the_job() -> None:
    pipeline = quiet(SD.build())
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
    lane = DiffusionLane(pipeline, kind="image")
    lane.admit(request(SD, "x"))
    end = ends(play(lane))["x"]

    assert isinstance(end, Failed)
    assert end.code == "invalid_output"


@pytest.mark.slow
def test_a_decode_that_runs_out_of_memory_is_split_then_tiled_then_fails_its_own_job() -> None:
    pipeline = quiet(SD.build())
    four = mixed_four(SD)
    expected = {wanted.id: direct(pipeline, wanted) for wanted in four}
    decode, max_rows = pipeline.vae.decode, {"whole": 2, "tiled": 1}

    def tight(vae: Any, latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(latents) > max_rows["tiled" if vae.use_tiling else "whole"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, *args, **kwargs)

    pipeline.vae.decode = MethodType(tight, pipeline.vae)
    lane = DiffusionLane(pipeline, kind="image")
    split = rendered(lane, four)
    max_rows["whole"] = 0
    tiled = rendered(lane, four)
    for name, frames in expected.items():
        assert gap(split[name].frames, frames) <= MERGED
        assert split[name].warnings == ()
        assert MERGED < gap(tiled[name].frames, frames) < 0.5, "of random weights"
        assert tiled[name].warnings == (IN_TILES,)
    assert not pipeline.vae.use_tiling
    max_rows["tiled"] = 0
    lane.admit(four[0])
    end = ends(play(lane))["a"]
    assert isinstance(end, Failed)
    assert end.code == "out_of_memory"


def test_frames_are_float32_in_range_and_rows_first() -> None:
    pipeline = quiet(WAN.build())
    lane = DiffusionLane(pipeline, kind="video")
    clip = rendered(lane, [request(WAN, "x", steps=2)])["x"].frames

    assert clip.shape == (5, 32, 32, 3)
    assert clip.dtype == np.float32
    assert clip.flags.c_contiguous
    assert 0 <= clip.min() <= clip.max() <= 1


def test_costs_name_the_shape_the_rows_and_the_requests_that_shared_the_forward(lane: DiffusionLane) -> None:
    rendered(lane, [request(SD, "a"), request(SD, "b")])
    costs = lane.take_costs()

    assert {cost.stage for cost in costs} == {"encoding", "denoising", "decoding"}
    assert {(cost.shape, cost.units) for cost in costs} == {("32x32x1", 1024)}
    assert {cost.component for cost in costs} == {"text_encoder", "unet", "vae"}
    assert {cost.rows for cost in costs} == {2}
    assert all(cost.seconds > 0 and set(cost.request_ids) == {"a", "b"} for cost in costs)
    assert lane.take_costs() == []


def test_closing_takes_the_wrappers_off_the_modules(sd: Any) -> None:
    lane = DiffusionLane(sd, kind="image")
    assert "forward" in vars(sd.unet)
    assert lane.weight_bytes == sum(
        p.numel() * p.element_size()
        for module in (sd.unet, sd.vae, sd.text_encoder)
        for p in (*module.parameters(), *module.buffers())
    )
    lane.close()

    assert "forward" not in vars(sd.unet)
    assert not {"encode", "decode"} & vars(sd.vae).keys()


def peaks(lane: DiffusionLane, component: str) -> list[int | None]:
    return [cost.peak_bytes for cost in lane.take_costs() if isinstance(cost, StepCost) and cost.component == component]


def test_peak_bytes_are_measured_once_for_each_shape_and_width_and_never_for_a_proof(lane: DiffusionLane) -> None:
    rendered(lane, [request(SD, "a", steps=2), request(SD, "b", steps=2)])
    proof, two_rows, *_ = peaks(lane, "unet")
    assert proof is None, "each of its calls ran more than once"
    assert two_rows is not None
    rendered(lane, [request(SD, "c", steps=3)])
    one_row, *again = peaks(lane, "unet")
    assert one_row is not None
    assert one_row < two_rows < 3 * one_row
    assert again
    assert all(peak is None for peak in again)


def test_a_forward_preempted_at_every_block_gives_the_same_picture_and_one_cost(lane: DiffusionLane) -> None:
    expected = rendered(lane, [request(SD, "a")])["a"].frames
    n_costs = len(lane.take_costs())
    lane.admit(request(SD, "b", owner="another"))
    updates: list[Update] = []
    n_preempted = 0
    while lane.has_work():
        updates += lane.step(should_yield=lambda: True)
        n_preempted += lane.mid_forward
    (end,) = ends(updates).values()
    assert isinstance(end, Rendered)
    assert np.array_equal(end.frames, expected)
    assert n_preempted > 20
    assert len(lane.take_costs()) == n_costs


def test_canceled_inside_a_forward_a_request_ends_at_once_and_the_lane_goes_on(lane: DiffusionLane) -> None:
    lane.admit(request(SD, "a"))
    while not lane.mid_forward:
        lane.step(should_yield=lambda: True)
    assert lane.park(["text_encoder"]) == 0, "on a CPU the device's memory is the host's"
    lane.cancel("a")
    assert ends(lane.step()) == {"a": Canceled("a")}
    assert not lane.mid_forward
    assert not lane.has_work()
    rendered(lane, [request(SD, "b")])


def test_next_step_names_the_forward_that_the_next_step_runs(lane: DiffusionLane) -> None:
    rendered(lane, [request(SD, "a"), request(SD, "b")])
    for name in "cd":
        lane.admit(request(SD, name))
    assert lane.next_step() is None, "the requests have to start first"
    lane.take_costs()
    while lane.has_work():
        next_step = lane.next_step()
        lane.step(max_rows=1)
        if next_step is None:
            continue
        (cost,) = lane.take_costs()
        assert isinstance(cost, StepCost)
        assert (next_step.component, next_step.entry, next_step.stage) == (cost.component, cost.entry, cost.stage)
        assert (next_step.shape, next_step.units) == (cost.shape, cost.units)
        assert cost.request_ids == next_step.request_ids[:1]


def refusals(lane: DiffusionLane) -> list[tuple[str, int]]:
    return [(note.component, note.rows) for note in lane.take_costs() if isinstance(note, OutOfMemory)]


def test_a_width_that_ran_out_of_memory_is_reported_and_not_tried_again_at_once(lane: DiffusionLane, sd: Any) -> None:
    rendered(lane, [request(SD, name) for name in "abcd"])
    expected = rendered(lane, [request(SD, "a")])["a"].frames
    lane.take_costs()
    with out_of_memory(sd.unet, above_rows=4) as failed:  # guidance makes two rows of each request
        four = rendered(lane, [request(SD, name) for name in "abcd"])
    assert failed == [8]
    assert refusals(lane) == [("unet", 4)]
    assert all(gap(end.frames, expected) <= MERGED for end in four.values())


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae"])
def test_a_job_survives_a_single_out_of_memory_error_even_alone(lane: DiffusionLane, sd: Any, component: str) -> None:
    expected = rendered(lane, [request(SD, "a")])["a"].frames
    lane.take_costs()
    with out_of_memory(sd.vae.decoder if component == "vae" else getattr(sd, component), times=1):
        assert np.array_equal(rendered(lane, [request(SD, "b", owner="another")])["b"].frames, expected)
    assert refusals(lane) == [(component, 1)]


def test_a_job_that_always_runs_out_of_memory_fails_alone_and_the_next_succeeds(lane: DiffusionLane, sd: Any) -> None:
    lane.admit(request(SD, "small"))
    lane.admit(request(SD, "large", guidance_scale=1.0, width=64, height=64))

    def large_only(block: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].shape[-1] > 8:  # half of a latent
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = next(repeated_blocks(sd.unet)).register_forward_pre_hook(large_only)
    done = ends(play(lane))
    hook.remove()

    assert isinstance(done["small"], Rendered)
    assert isinstance(done["large"], Failed)
    assert done["large"].code == "out_of_memory"
    rendered(lane, [request(SD, "next", width=64, height=64)])


def test_decode_out_of_memory_falls_back_to_tiles(lane: DiffusionLane, sd: Any) -> None:
    with out_of_memory(sd.vae.decoder, times=2) as failed:
        end = rendered(lane, [request(SD, "a")])["a"]
    assert failed == [1, 1]
    assert not sd.vae.use_tiling
    assert end.warnings == (IN_TILES,)


def test_a_decode_that_does_not_fit_is_done_in_tiles_at_once_when_the_scheduler_says_so(
    lane: DiffusionLane, sd: Any
) -> None:
    lane.admit(wanted := request(SD, "a"))
    updates: list[Any] = []
    while lane.has_work():
        following = lane.next_step()
        updates += lane.step(1, in_tiles=following is not None and following.entry == "decode")
    (end,) = [update for update in updates if isinstance(update, Rendered)]

    assert end.warnings == (IN_TILES,)
    with in_tiles(sd.vae, torch.zeros(1, 4, 16, 16)):
        assert gap(end.frames, direct(sd, wanted)) <= MERGED, "what the stock pipeline gives in the same tiles"
    entries = [note.entry for note in lane.take_costs() if isinstance(note, StepCost) and "decode" in note.entry]
    assert entries == ["decode in tiles"], "it says nothing about the memory of a whole decode"


def test_a_job_whose_cleanup_raises_when_it_is_canceled_is_canceled_and_the_others_go_on(
    lane: DiffusionLane, sd: Any
) -> None:
    began: list[int] = []

    def untidy(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """A callback that calls a module, and raises when that call is canceled."""
        began.append(step)
        try:
            pipeline.unet.forward(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 7, 32), return_dict=False)
        finally:
            raise ValueError("the callback is gone")

    lane.admit(good := request(SD, "good"))
    lane.admit(request(SD, "bad", call={"callback_on_step_end": untidy}))
    while not began:
        lane.step()
    lane.cancel("bad")
    done = ends(play(lane))
    assert isinstance(done["bad"], Canceled)
    assert isinstance(done["good"], Rendered)
    assert gap(done["good"].frames, direct(sd, good)) <= MERGED


def test_a_closed_lane_holds_nothing_of_the_model() -> None:
    pipeline = quiet(SD.build())
    lane = DiffusionLane(pipeline, kind="image")
    rendered(lane, [request(SD, "a", preview=True), request(SD, "b")])
    weights = weakref.ref(pipeline.unet.conv_in.weight)
    del pipeline
    lane.close()

    assert weights() is None, "close() frees them, though the lane itself still exists"
    assert (lane.components, lane.parked, lane.weight_bytes, lane.next_step()) == ({}, {}, 0, None)


def test_a_canceled_request_is_no_part_of_the_next_step(lane: DiffusionLane) -> None:
    for name in "ab":
        lane.admit(request(SD, name))
    lane.step()
    lane.cancel("a")
    next_step = lane.next_step()
    assert next_step is not None
    assert next_step.request_ids == ("b",)
    while not lane.mid_forward:
        lane.step(should_yield=lambda: True)
    lane.admit(request(SD, "c"))
    for name in "bc":
        lane.cancel(name)
    assert (lane.next_step(), lane.mid_forward) == (None, False), "ending these needs no forward"
    assert sorted(ends(lane.step())) == ["b", "c"]
    assert not lane.has_work()


def test_a_preempted_forward_goes_on_for_the_requests_that_are_left(lane: DiffusionLane, sd: Any) -> None:
    rendered(lane, [request(SD, "a"), request(SD, "b")])  # proved
    for name in "ab":
        lane.admit(request(SD, name))
    while not (lane.mid_forward and (next_step := lane.next_step()) and next_step.rows == 2):
        lane.step(should_yield=lambda: True)
    lane.cancel("a")
    next_step = lane.next_step()
    assert lane.mid_forward
    assert next_step is not None
    assert next_step.request_ids == ("b",)
    done = ends(play(lane))
    assert isinstance(done["a"], Canceled)
    assert isinstance(done["b"], Rendered)
    assert gap(done["b"].frames, direct(sd, request(SD, "b"))) <= MERGED
