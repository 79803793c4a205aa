"""What a lane does with requests that are given pictures: how it reads them beside other work, and how they end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.diffusion.inputs import reader
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest, Inputs, MediaFile
from pipelines.interface import Canceled, Failed, Previewed, Progressed, Rendered, StepCost, Update
from tests.support.lanes.faults import out_of_memory
from tests.support.lanes.lane_play import ends, gap, play, rendered, request, wait_for_inputs
from tests.support.lanes.loras import make_lora
from tests.support.lanes.picture_jobs import direct_task, picture_fields, picture_file
from tests.support.lanes.stock_families import FAMILIES

SD = FAMILIES["sd15"]
MERGED = 1e-4
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def sd() -> Any:
    return SD.build()


@pytest.fixture
def lane(sd: Any) -> Iterator[DiffusionLane]:
    lane = DiffusionLane(sd, kind="image")
    yield lane
    lane.close()


def changed(name: str, **wanted: Any) -> DiffusionRequest:
    """A request for image-to-image."""
    return request(SD, name, **{**picture_fields("image"), **wanted})


def photo() -> Image.Image:
    file = changed("x").inputs.image
    assert file is not None
    with Image.open(file.path) as picture:
        return picture.copy()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No file is read before this is set."""
    ready = threading.Event()
    read = reader.read_picture

    def slow(file: MediaFile, name: str) -> Image.Image:
        ready.wait()
        return read(file, name)

    monkeypatch.setattr(reader, "read_picture", slow)
    yield ready
    ready.set()


def test_others_run_while_the_inputs_of_a_request_are_read_and_no_step_waits_long(
    lane: DiffusionLane, disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "WAIT_S", 60.0)  # a busy machine may need milliseconds to ask once
    lane.admit(changed("slow"))
    lane.admit(request(SD, "quick"))
    updates: list[Update] = []
    while not any(isinstance(update, Rendered) for update in updates):
        updates += lane.step()
    asked = []

    def should_yield() -> bool:
        asked.append(True)
        return len(asked) > 2

    assert [*ends(updates)] == ["quick"]
    assert (lane.next_step(), lane.has_work()) == (None, True)
    assert lane.step(should_yield=should_yield) == []
    assert len(asked) == 3, "a step that waits lets others go first"
    disk.set()
    wait_for_inputs(lane)
    assert isinstance(ends(play(lane))["slow"], Rendered)


def test_canceled_while_its_inputs_are_read_a_request_ends_at_once(lane: DiffusionLane, disk: threading.Event) -> None:
    lane.admit(changed("slow"))
    lane.cancel("slow")

    assert lane.step(max_rows=0) == [Canceled("slow")]
    assert not lane.has_work()
    disk.set()
    assert isinstance(rendered(lane, [changed("next")])["next"], Rendered)


def test_a_file_that_is_gone_or_damaged_fails_its_request_alone(lane: DiffusionLane, tmp_path: Path) -> None:
    gone = MediaFile(str(tmp_path / "gone.png"), "0" * 64, 32, 32)
    damaged = picture_file(tmp_path / "damaged.png", 32, 32)
    Path(damaged.path).write_bytes(b"\x89PNG")
    lane.admit(changed("gone", inputs=Inputs(image=gone)))
    lane.admit(changed("damaged", inputs=Inputs(image=damaged)))
    lane.admit(request(SD, "good"))
    done = ends(play(lane))

    failures = {name: (end.code, end.message) for name, end in done.items() if isinstance(end, Failed)}
    assert failures == {
        "gone": ("bad_request", "The file of image is gone."),
        "damaged": ("bad_request", "The file of image cannot be read."),
    }
    assert isinstance(done["good"], Rendered)


@pytest.mark.parametrize("name", ["FluxImg2ImgPipeline", "AutoencoderKL", "StableDiffusionControlNetPipeline"])
def test_a_class_that_does_not_fit_the_modules_fails_the_request(lane: DiffusionLane, name: str) -> None:
    lane.admit(changed("bad", pipeline=name))
    lane.admit(request(SD, "good"))
    done = ends(play(lane))

    bad = done["bad"]
    assert isinstance(bad, Failed)
    assert (bad.code, name in bad.message) == ("bad_request", True)
    assert isinstance(done["good"], Rendered)


def test_all_tasks_use_the_same_modules_and_bring_no_weights(sd: Any, lane: DiffusionLane) -> None:
    before = lane.weight_bytes, dict(lane.components)
    rendered(lane, [changed("a"), request(SD, "b", **picture_fields("mask"))])
    made = lane._stock_call._pipelines.get("StableDiffusionInpaintPipeline")

    assert (lane.weight_bytes, lane.components) == before
    assert made.unet is sd.unet
    assert "forward" in vars(made.unet), "its calls suspend tasks of every class"


@pytest.mark.slow
def test_deterministic_it_equals_the_library_bit_for_bit_while_others_run(sd: Any, lane: DiffusionLane) -> None:
    pinned = changed("pinned", seed=9, deterministic=True)
    results = rendered(lane, [changed("x", seed=1), pinned, request(SD, "y")])

    assert np.array_equal(results["pinned"].frames, direct_task(sd, pinned, image=photo()))
    assert results["pinned"].batch_peak == 1


def test_outputs_of_one_job_read_its_picture_once(lane: DiffusionLane) -> None:
    for i in range(4):
        lane.admit(changed(f"job/{i}", seed=i))
    assert len({id(future) for future in lane._waiting.reader._pending.values()}) == 1
    lane.cancel("job/0")
    done = ends(play(lane))

    assert [type(done[f"job/{i}"]) for i in range(4)] == [Canceled, Rendered, Rendered, Rendered]


@pytest.mark.slow
def test_canceled_in_the_middle_it_frees_its_picture_and_changes_no_other_job(sd: Any, lane: DiffusionLane) -> None:
    doomed = changed("doomed", steps=50)
    other = changed("other", seed=2)
    lane.admit(doomed)
    lane.admit(replace(other, fit="stretch"))  # so that it has a picture of its own
    wait_for_inputs(lane)
    picture = weakref.ref(lane._waiting.reader._pending["doomed"].result().image)
    updates: list[Update] = []
    while not any(isinstance(u, Progressed) and u.request_id == "doomed" and u.step == 2 for u in updates):
        updates += lane.step()
    assert picture() is not None
    lane.cancel("doomed")
    updates += lane.step()
    gc.collect()

    assert picture() is None
    done = ends([*updates, *play(lane)])
    assert isinstance(done["doomed"], Canceled)
    end = done["other"]
    assert isinstance(end, Rendered)
    assert gap(end.frames, direct_task(sd, other, image=photo())) <= MERGED


@pytest.mark.slow
def test_an_encoding_that_runs_out_of_memory_fails_its_own_job(lane: DiffusionLane, sd: Any) -> None:
    lane.admit(changed("large"))
    lane.admit(request(SD, "text"))
    with out_of_memory(sd.vae.encoder):
        done = ends(play(lane))

    large = done["large"]
    assert isinstance(large, Failed)
    assert large.code == "out_of_memory"
    assert isinstance(done["text"], Rendered)


def test_preempted_at_every_block_it_gives_the_same_picture(lane: DiffusionLane) -> None:
    expected = rendered(lane, [changed("a")])["a"].frames
    lane.admit(changed("b", owner="another"))
    wait_for_inputs(lane)
    updates: list[Update] = []
    while lane.has_work():
        updates += lane.step(should_yield=lambda: True)
    (end,) = ends(updates).values()

    assert isinstance(end, Rendered)
    assert np.array_equal(end.frames, expected)


def test_a_strength_shortens_the_steps_that_are_told_and_forecast(lane: DiffusionLane) -> None:
    wanted = changed("a", steps=10, strength=0.6)
    lane.admit(wanted)
    told = [(u.stage, u.step, u.total_steps) for u in play(lane) if isinstance(u, Progressed)]

    assert told == [("encoding", 0, 6), *(("denoising", step, 6) for step in range(6)), ("decoding", 6, 6)]
    assert (wanted.loop_steps, wanted.computed_steps) == (6, 6)
    assert replace(wanted, strength=None).computed_steps == 10
    assert replace(wanted, strength=0.01).computed_steps == 1
    assert (
        replace(wanted, steps=40, strength=0.5, speed="fast").computed_steps
        == replace(wanted, steps=20, strength=1.0, speed="fast").computed_steps
    )


@pytest.mark.slow
def test_steps_are_skipped_by_the_steps_that_are_left(lane: DiffusionLane) -> None:
    # With a scheduler that runs as many steps as it is told; the checkpoint's own adds one.
    skipped = changed("a", steps=40, strength=0.5, speed="fast", scheduler="DDIMScheduler")
    results = rendered(lane, [skipped, replace(skipped, id="b", steps=20)])
    n_forwards = sum(
        isinstance(cost, StepCost) and cost.component == "unet" and "a" in cost.request_ids
        for cost in lane.take_costs()
    )

    assert n_forwards == skipped.computed_steps < 20
    assert results["a"].warnings == ()
    assert results["b"].warnings == ("speed has no effect below 12 steps: each was computed.",)


def test_forwards_of_all_tasks_at_one_size_have_one_key_of_costs(lane: DiffusionLane) -> None:
    rendered(lane, [request(SD, "a"), changed("b"), request(SD, "c", **picture_fields("mask"))])
    costs = [cost for cost in lane.take_costs() if isinstance(cost, StepCost)]

    assert {(cost.shape, cost.units) for cost in costs} == {("32x32x1", 1024)}
    assert {(cost.component, cost.entry, cost.stage) for cost in costs} == {
        ("text_encoder", "forward", "encoding"),
        ("vae", "encode", "encoding"),
        ("unet", "forward", "denoising"),
        ("vae", "decode", "decoding"),
    }


def test_references_and_maps_are_part_of_the_key_of_costs() -> None:
    file = MediaFile("a.png", "0", 640, 480)
    text = request(SD, "a")
    edited = replace(text, inputs=Inputs(image=file, images=(file, file)))
    shapes = {
        "text": text,
        "edited": edited,
        "repainted": replace(text, inputs=Inputs(image=file, mask=file)),
        "changed": replace(text, inputs=Inputs(image=file), strength=0.5),
        "moved": replace(text, inputs=Inputs(image=file), num_frames=9),
    }

    assert {name: wanted.shape for name, wanted in shapes.items()} == {
        "text": "32x32x1",
        "edited": "32x32x1+3r",
        "repainted": "32x32x1",
        "changed": "32x32x1",
        "moved": "32x32x9",
    }
    assert edited.units == text.units + 3 * (1 << 20)


def test_previews_of_a_picture_that_is_changed_have_one_color_for_each_latent(lane: DiffusionLane) -> None:
    lane.admit(changed("a", preview=True))
    shown = [update.colours for update in play(lane) if isinstance(update, Previewed)]

    assert shown
    assert {picture.shape for picture in shown} == {(16, 16, 3)}


@pytest.mark.slow
def test_a_lora_is_worn_by_every_task(sd: Any, tmp_path: Path) -> None:
    pipeline = SD.build()
    lora = make_lora(tmp_path, "one", 1)
    lane = DiffusionLane(pipeline, kind="image")
    with_lora = changed("with", loras=(lora,))
    results = rendered(lane, [with_lora, changed("without"), request(SD, "text", loras=(lora,))])
    lane.close()
    plain = direct_task(sd, with_lora, image=photo())
    direct = SD.build()
    direct.load_lora_weights(str(tmp_path), weight_name="one.safetensors", adapter_name="one")
    direct.set_adapters(["one"], [lora.weight])
    expected = direct_task(direct, with_lora, image=photo())

    assert gap(results["with"].frames, expected) <= MERGED
    assert gap(results["without"].frames, plain) <= MERGED
    assert gap(expected, plain) > 100 * MERGED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "cls"),
    [("sd15", "StableDiffusionImg2ImgPipeline"), ("sdxl", "StableDiffusionXLInpaintPipeline")],
)
def test_weights_in_a_prompt_are_read_for_every_task(family: str, cls: str) -> None:
    fields = picture_fields("image" if "Img2Img" in cls else "mask")
    base = FAMILIES[family]
    lane = DiffusionLane(base.build(), kind="image")
    plain, weighted, same = (
        request(base, name, **{**fields, "pipeline": cls, "prompt": prompt})
        for name, prompt in (
            ("plain", "a red circle"),
            ("weighted", "a (red:1.8) circle"),
            ("same", "a (red:1) circle"),
        )
    )
    results = rendered(lane, [plain, weighted, same])
    lane.close()

    assert {name: end.warnings for name, end in results.items()} == dict.fromkeys(results, ())
    assert gap(results["same"].frames, results["plain"].frames) <= MERGED
    assert gap(results["weighted"].frames, results["plain"].frames) > 10 * MERGED


@pytest.mark.slow
def test_kontext_makes_the_size_that_was_asked_for() -> None:
    flux = FAMILIES["flux"]
    lane = DiffusionLane(flux.build(), kind="image")
    fields = {**picture_fields("image"), "pipeline": "FluxKontextPipeline", "strength": None}
    call = {**flux.call, "_auto_resize": False}
    end = rendered(lane, [request(flux, "a", **{**fields, "call": call, "width": 48, "steps": 2})])["a"]
    lane.close()

    assert end.frames.shape == (1, 32, 48, 3)
    assert end.warnings == ()
