"""Jobs that borrow ControlNets and T2I-Adapters equal the stock classes called directly, four at once on one base.

Tolerance: two steps of 8 bits; measured: 1e-6 in [0, 1].
"""

from __future__ import annotations

import gc
import inspect
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.families import FAMILIES as ALL
from pipelines import device
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import ONE_CONTROLNET, Adapter, Control, DiffusionRequest, Inputs, MediaFile
from pipelines.interface import Failed, Rendered, StepCost, WeightsChanged
from tests.support.lanes.lane_play import ends, gap, play, rendered, request
from tests.support.lanes.picture_jobs import mask_file, picture_file
from tests.support.lanes.stock_families import FAMILIES, Family
from tests.support.lanes.tiny_adapters import controlnet_for, opens_on_cpu, saved, with_numbers

TOLERANCE = 2 / 255

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def controlled(
    family: Family, name: str, pipeline: str, argument: str, controls: Sequence[Control], **wanted: Any
) -> DiffusionRequest:
    inputs = Inputs(controls=tuple(controls), **wanted.pop("files", {}))
    return request(family, name, pipeline=pipeline, inputs=inputs, input_arguments={"control": argument}
                   | wanted.pop("arguments", {}), **wanted)  # fmt: skip


def direct_control(pipeline: Any, wanted: DiffusionRequest, lent: dict[str, Any], **inputs: Any) -> NDArray[np.float32]:
    cls: Any = getattr(diffusers, wanted.pipeline or type(pipeline).__name__)
    stock = pipeline if not lent else cls.from_pipe(pipeline, **lent)
    stock.set_progress_bar_config(disable=True)
    torch.manual_seed(wanted.seed)  # some pipelines draw from torch's own generator where they encode a map
    given = {"strength": wanted.strength} if wanted.strength is not None else {}
    made = stock(
        prompt=wanted.prompt, width=wanted.width, height=wanted.height, num_inference_steps=wanted.steps,
        guidance_scale=wanted.guidance_scale, generator=torch.Generator("cpu").manual_seed(wanted.seed),
        output_type="np", **given, **inputs, **wanted.call,
    )  # fmt: skip
    return np.asarray(made[0], dtype=np.float32)


def opened(file: MediaFile) -> Image.Image:
    with Image.open(file.path) as picture:
        return picture.convert("RGB")


@pytest.mark.slow
def test_jobs_with_different_controlnets_share_the_forwards_of_one_stable_diffusion(tmp_path: Path) -> None:
    family, pipeline = FAMILIES["sd15"], FAMILIES["sd15"].build()
    one, two = (saved(controlnet_for(pipeline, seed), tmp_path, name) for seed, name in enumerate(("canny", "depth")))
    size = family.size
    edges, depth = (picture_file(tmp_path / f"{seed}.png", size, size, seed) for seed in (1, 2))
    photo, mask = picture_file(tmp_path / "photo.png", size, size, 3), mask_file(tmp_path / "mask.png", size, size)
    on_cpu = opens_on_cpu(pipeline)
    nets = {name: on_cpu(adapter) for name, adapter in (("canny", one), ("depth", two))}
    text = "StableDiffusionControlNetPipeline"
    jobs = [
        (request(family, "text", steps=4, seed=1), {}, {}),
        (
            controlled(family, "canny", text, "image", [Control(edges, one, strength=0.7, end=0.5)], steps=4, seed=2),
            {"controlnet": nets["canny"]},
            {"image": opened(edges), "controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.5},
        ),
        (
            controlled(family, "both", text, "image", [Control(edges, one), Control(depth, two, strength=0.4)], seed=3),
            {"controlnet": [nets["canny"], nets["depth"]]},
            {"image": [opened(edges), opened(depth)], "controlnet_conditioning_scale": [1.0, 0.4]},
        ),
        (
            controlled(
                family, "mask", "StableDiffusionControlNetInpaintPipeline", "control_image", [Control(depth, two)],
                files={"image": photo, "mask": mask}, arguments={"image": "image", "mask": "mask_image"},
                steps=5, strength=0.8, seed=4,
            ),
            {"controlnet": nets["depth"]},
            {"image": opened(photo), "mask_image": opened(mask), "control_image": opened(depth),
             "controlnet_conditioning_scale": 1.0},
        ),
    ]  # fmt: skip
    expected = {wanted.id: direct_control(pipeline, wanted, lent, **inputs) for wanted, lent, inputs in jobs}
    lane = DiffusionLane(pipeline, kind="image", open_adapter=on_cpu)
    base_bytes = lane.weight_bytes
    requests = [wanted for wanted, _, _ in jobs]
    rendered(lane, requests)  # proves what merges
    lane.take_costs()
    results = rendered(lane, requests)

    for wanted in requests:
        assert gap(results[wanted.id].frames, expected[wanted.id]) <= TOLERANCE, wanted.id
    # A denoiser that is given maps is called otherwise than for text alone, and by each class in its own way.
    assert results["canny"].batch_peak == results["both"].batch_peak == 2
    assert gap(results["canny"].frames, results["text"].frames) > TOLERANCE
    assert lane.components[one.component] == one.n_bytes
    assert lane.weight_bytes == base_bytes + one.n_bytes + two.n_bytes
    assert not any(isinstance(note, WeightsChanged) for note in lane.take_costs()), "both were held already"

    lane.drop_adapters([one.component])
    assert lane.weight_bytes == base_bytes + two.n_bytes
    again = rendered(lane, requests[:2])
    assert gap(again["canny"].frames, expected["canny"]) <= TOLERANCE
    lane.close()


def union_net(pipeline: Any, seed: int) -> Any:
    small = {"num_trans_channel": 16, "num_trans_head": 2, "num_proj_channel": 16, "num_control_type": 6}
    torch.manual_seed(seed)
    copied = diffusers.ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(16, 32)).config
    known = {key: value for key, value in copied.items() if not key.startswith("_")}
    for key in ("mid_block_type", "global_pool_conditions", "num_attention_heads"):
        known.pop(key)
    known["num_trans_channel"] = pipeline.unet.config.block_out_channels[0]
    return with_numbers(
        diffusers.ControlNetUnionModel(
            **{
                **known,
                **small,
                "num_trans_channel": known["num_trans_channel"],
                "num_proj_channel": known["num_trans_channel"],
            }
        )
    )


CASES = {
    "sdxl": ("StableDiffusionXLPipeline", "StableDiffusionXLControlNetPipeline", "image", controlnet_for),
    "sdxl-union": ("StableDiffusionXLPipeline", "StableDiffusionXLControlNetUnionPipeline", "control_image", union_net),
    "sd3": ("StableDiffusion3Pipeline", "StableDiffusion3ControlNetPipeline", "control_image", controlnet_for),
    "flux": ("FluxPipeline", "FluxControlNetPipeline", "control_image", controlnet_for),
    "qwen": ("QwenImagePipeline", "QwenImageControlNetPipeline", "control_image", controlnet_for),
    "z-image": ("ZImagePipeline", "ZImageControlNetPipeline", "control_image", controlnet_for),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_other_families_follow_maps(case: str, tmp_path: Path) -> None:
    own, name, argument, make = CASES[case]
    family = ALL[own]
    pipeline = family.build()
    one, two = (saved(make(pipeline, seed), tmp_path, f"net-{seed}") for seed in range(2))
    on_cpu = opens_on_cpu(pipeline)
    first, second = on_cpu(one), on_cpu(two)
    maps = [picture_file(tmp_path / f"{seed}.png", family.size, family.size, seed) for seed in (1, 2)]
    cls = getattr(diffusers, name)
    parameters = inspect.signature(cls.__call__).parameters
    has_range, has_modes = "control_guidance_end" in parameters, "union" in case
    modes = [3, 1] if has_modes else [None, None]
    end = 0.6 if has_range else 1.0
    controls = [
        Control(maps[0], one, strength=0.6, end=end, mode=modes[0]),
        Control(maps[1], two, strength=0.9, mode=modes[1]),
    ]
    scale = {"controlnet_conditioning_scale": 0.6} | ({"control_guidance_end": end} if has_range else {})
    mode = {"control_mode": modes[0]} if has_modes else {}
    jobs = [
        (request(family, "text", steps=4, seed=1), {}, {}),
        (
            controlled(family, "one", name, argument, controls[:1], steps=4, seed=2),
            {"controlnet": first}, {argument: opened(maps[0]), **scale, **mode},
        ),
        (
            controlled(family, "again", name, argument, controls[:1], steps=3, seed=3),
            {"controlnet": first}, {argument: opened(maps[0]), **scale, **mode},
        ),
        (
            controlled(family, "two", name, argument, controls[1:], steps=5, seed=4),
            {"controlnet": second},
            {argument: opened(maps[1]), "controlnet_conditioning_scale": 0.9,
             **({"control_mode": modes[1]} if has_modes else {})},
        ),
    ]  # fmt: skip
    expected = {wanted.id: direct_control(pipeline, wanted, lent, **inputs) for wanted, lent, inputs in jobs}
    lane = DiffusionLane(pipeline, kind="image", open_adapter=on_cpu)
    base_bytes = lane.weight_bytes
    requests = [wanted for wanted, _, _ in jobs]
    rendered(lane, requests)
    results = rendered(lane, requests)

    for wanted in requests:
        assert gap(results[wanted.id].frames, expected[wanted.id]) <= TOLERANCE, wanted.id
    assert (
        gap(results["one"].frames, direct_control(pipeline, requests[1], {"controlnet": second}, **jobs[1][2])) > 0.01
    )
    assert results["one"].batch_peak == results["again"].batch_peak > 1
    assert lane.weight_bytes == base_bytes + one.n_bytes + two.n_bytes
    lane.drop_adapters([one.component, two.component])
    assert lane.weight_bytes == base_bytes
    lane.close()


@pytest.mark.slow
@pytest.mark.parametrize("case", ["flux", "qwen"])
def test_several_maps_at_once_as_each_class_takes_them(case: str, tmp_path: Path) -> None:
    own, name, argument, make = CASES[case]
    family = ALL[own]
    pipeline = family.build()
    nets = [saved(make(pipeline, seed), tmp_path, f"net-{seed}") for seed in range(2)]
    if name in ONE_CONTROLNET:
        nets = [nets[0], nets[0]]
    maps = [picture_file(tmp_path / f"{seed}.png", family.size, family.size, seed) for seed in (1, 2)]
    wanted = controlled(
        family, "both", name, argument,
        [Control(image, net, strength=0.7, end=0.8) for image, net in zip(maps, nets, strict=True)], steps=3, seed=2,
    )  # fmt: skip
    modules: Any = [opens_on_cpu(pipeline)(net) for net in nets]
    if case == "qwen":
        modules = diffusers.QwenImageMultiControlNetModel(modules[:1])
    inputs = {
        argument: [opened(image) for image in maps], "controlnet_conditioning_scale": [0.7, 0.7],
        "control_guidance_start": [0.0, 0.0], "control_guidance_end": [0.8, 0.8],
    }  # fmt: skip
    expected = direct_control(pipeline, wanted, {"controlnet": modules}, **inputs)
    lane = DiffusionLane(pipeline, kind="image", open_adapter=opens_on_cpu(pipeline))

    result = rendered(lane, [wanted])["both"]

    assert gap(result.frames, expected) <= TOLERANCE
    lane.close()


@pytest.mark.slow
def test_one_model_of_several_kinds_follows_maps_of_two_kinds_at_once(tmp_path: Path) -> None:
    family = ALL["StableDiffusionXLPipeline"]
    pipeline = family.build()
    net = saved(union_net(pipeline, 0), tmp_path, "union")
    maps = [picture_file(tmp_path / f"{seed}.png", family.size, family.size, seed) for seed in (1, 2)]
    wanted = controlled(
        family, "both", "StableDiffusionXLControlNetUnionPipeline", "control_image",
        [Control(image, net, strength=0.7, mode=mode) for image, mode in zip(maps, (3, 1), strict=True)], seed=2,
    )  # fmt: skip
    inputs = {"control_image": [opened(image) for image in maps], "control_mode": [3, 1]}
    scale = {"controlnet_conditioning_scale": [0.7, 0.7]}
    expected = direct_control(pipeline, wanted, {"controlnet": opens_on_cpu(pipeline)(net)}, **inputs, **scale)
    lane = DiffusionLane(pipeline, kind="image", open_adapter=opens_on_cpu(pipeline))

    assert gap(rendered(lane, [wanted])["both"].frames, expected) <= TOLERANCE
    lane.close()


@pytest.mark.slow
@pytest.mark.parametrize("is_xl", [False, True], ids=["sd15", "sdxl"])
def test_t2i_adapters_alone_and_together(is_xl: bool, tmp_path: Path) -> None:
    family = FAMILIES["sdxl" if is_xl else "sd15"]
    pipeline = family.build()
    name = "StableDiffusionXLAdapterPipeline" if is_xl else "StableDiffusionAdapterPipeline"
    one, two = (saved(t2i_for(pipeline, seed), tmp_path, f"t2i-{seed}", "t2i_adapter") for seed in range(2))
    maps = [picture_file(tmp_path / f"{seed}.png", family.size, family.size, seed) for seed in (1, 2)]
    on_cpu = opens_on_cpu(pipeline)
    end, factor = (0.5, {"adapter_conditioning_factor": 0.5}) if is_xl else (1.0, {})
    jobs = [
        (
            controlled(family, "one", name, "image", [Control(maps[0], one, strength=0.6, end=end)], steps=3, seed=2),
            {"adapter": on_cpu(one)},
            {"image": opened(maps[0]), "adapter_conditioning_scale": 0.6, **factor},
        ),
        (
            controlled(family, "both", name, "image", [Control(maps[0], one), Control(maps[1], two)], steps=4, seed=3),
            {"adapter": diffusers.MultiAdapter([on_cpu(one), on_cpu(two)])},
            {"image": [opened(image) for image in maps], "adapter_conditioning_scale": [1.0, 1.0]},
        ),
    ]
    expected = {wanted.id: direct_control(pipeline, wanted, lent, **inputs) for wanted, lent, inputs in jobs}
    lane = DiffusionLane(pipeline, kind="image", open_adapter=on_cpu)
    results = rendered(lane, [wanted for wanted, _, _ in jobs])

    for name, frames in expected.items():
        assert gap(results[name].frames, frames) <= TOLERANCE, name
    lane.close()


def t2i_for(pipeline: Any, seed: int) -> Any:
    """The small U-Nets begin with a block without attention, as that of SDXL does, so they need its adapter."""
    torch.manual_seed(seed)
    first, last = pipeline.unet.config.block_out_channels
    factor = 2 ** len(pipeline.vae.config.block_out_channels)
    made = diffusers.T2IAdapter(
        in_channels=3, channels=[first, last, last, last], num_res_blocks=1, downscale_factor=factor,
        adapter_type="full_adapter_xl",
    )  # fmt: skip
    return with_numbers(made)


@pytest.mark.slow
def test_an_adapter_that_cannot_be_loaded_ends_its_own_job_alone(tmp_path: Path) -> None:
    family, pipeline = FAMILIES["sd15"], FAMILIES["sd15"].build()
    net = saved(controlnet_for(pipeline), tmp_path, "canny")
    image = picture_file(tmp_path / "map.png", family.size, family.size)
    gone = replace(net, name="gone", path=str(tmp_path / "nowhere"))

    def opens(adapter: Adapter) -> Any:
        if adapter.name == "large":
            raise MemoryError
        return opens_on_cpu(pipeline)(adapter)

    lane = DiffusionLane(pipeline, kind="image", open_adapter=opens)
    base_bytes = lane.weight_bytes
    for name, adapter in (("a", net), ("b", gone), ("c", replace(net, name="large"))):
        lane.admit(controlled(family, name, "StableDiffusionControlNetPipeline", "image", [Control(image, adapter)]))
    result = ends(play(lane))

    assert isinstance(result["a"], Rendered)
    assert isinstance(result["b"], Failed)
    assert (result["b"].code, result["b"].message) == (
        "bad_request", "The adapter gone cannot be loaded: nowhere is a link to a file that is not there.",
    )  # fmt: skip
    assert isinstance(result["c"], Failed)
    assert result["c"].code == "out_of_memory"
    assert lane.weight_bytes == base_bytes + net.n_bytes
    lane.close()


@pytest.mark.slow
def test_an_adapter_in_use_is_not_dropped(tmp_path: Path) -> None:
    family, pipeline = FAMILIES["sd15"], FAMILIES["sd15"].build()
    net = saved(controlnet_for(pipeline), tmp_path, "canny")
    image = picture_file(tmp_path / "map.png", family.size, family.size)
    lane = DiffusionLane(pipeline, kind="image", open_adapter=opens_on_cpu(pipeline))
    lane.admit(controlled(family, "a", "StableDiffusionControlNetPipeline", "image", [Control(image, net)]))
    while net.component not in lane.components:
        lane.step()

    lane.drop_adapters([net.component])
    assert net.component in lane.components
    play(lane)
    lane.drop_adapters([net.component])
    assert net.component not in lane.components
    lane.close()


@pytest.mark.slow
def test_a_parked_controlnet_comes_back_for_its_forwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_own_memory", lambda device_name: True)
    family, pipeline = FAMILIES["sd15"], FAMILIES["sd15"].build()
    net = saved(controlnet_for(pipeline), tmp_path, "canny")
    image = picture_file(tmp_path / "map.png", family.size, family.size)
    job = controlled(family, "a", "StableDiffusionControlNetPipeline", "image", [Control(image, net)])
    lane = DiffusionLane(pipeline, kind="image", open_adapter=opens_on_cpu(pipeline))
    expected = rendered(lane, [job])["a"]
    lane.admit(job)
    updates = []
    while lane.has_work():
        updates += lane.step()
        step = lane.next_step()
        if step is not None:  # as a scheduler with too little memory does
            lane.park([name for name in lane.components if name != step.component])
            lane.unpark([step.component])
    assert net.component in lane.parked

    assert np.array_equal(ends(updates)["a"].frames, expected.frames)
    lane.drop_adapters([net.component])
    assert net.component not in lane.parked
    lane.close()


@pytest.mark.slow
def test_parts_that_a_controlnet_has_from_the_base_stay_while_it_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_own_memory", lambda device_name: True)
    family = ALL["ZImagePipeline"]
    pipeline = family.build()
    net = saved(controlnet_for(pipeline), tmp_path, "union")
    image = picture_file(tmp_path / "map.png", family.size, family.size)
    lane = DiffusionLane(pipeline, kind="image", open_adapter=opens_on_cpu(pipeline))
    base_bytes = lane.weight_bytes
    job = controlled(family, "a", "ZImageControlNetPipeline", "control_image", [Control(image, net)], steps=2)
    rendered(lane, [job])

    assert lane.weight_bytes == base_bytes + net.n_bytes, "the parts count once"
    transformer = lane.components["transformer"]
    assert 0 < lane.park(["transformer"]) < transformer
    assert lane.components[net.component] > net.n_bytes, "the parts are counted for it now"
    lane.unpark(["transformer"])
    lane.drop_adapters([net.component])
    assert (lane.weight_bytes, lane.components["transformer"]) == (base_bytes, transformer)
    lane.close()


@pytest.mark.slow
def test_steps_are_skipped_with_a_controlnet_too(tmp_path: Path) -> None:
    family, pipeline = FAMILIES["sd15"], FAMILIES["sd15"].build()
    net = saved(controlnet_for(pipeline), tmp_path, "canny")
    image = picture_file(tmp_path / "map.png", family.size, family.size)
    made: Any = {"steps": 12, "speed": "fast"}
    job = controlled(family, "a", "StableDiffusionControlNetPipeline", "image", [Control(image, net)], **made)
    lane = DiffusionLane(pipeline, kind="image", open_adapter=opens_on_cpu(pipeline))

    result = rendered(lane, [job])["a"]

    assert result.warnings == ()
    n_forwards = sum(note.component == net.component for note in lane.take_costs() if isinstance(note, StepCost))
    assert n_forwards < 12
    lane.close()


@pytest.mark.slow
def test_the_files_of_an_adapter_are_read_ahead_once_and_beside_the_device_thread(tmp_path: Path) -> None:
    family, pipeline = FAMILIES["sd15"], FAMILIES["sd15"].build()
    net = saved(controlnet_for(pipeline), tmp_path, "canny")
    image = picture_file(tmp_path / "map.png", family.size, family.size)
    seen: list[tuple[str, str]] = []

    def opens(adapter: Adapter) -> Any:
        seen.append(("opened", threading.current_thread().name.partition("_")[0]))
        return opens_on_cpu(pipeline)(adapter)

    def reads(adapter: Adapter) -> None:
        seen.append((f"read {adapter.name}", threading.current_thread().name.partition("_")[0]))

    lane = DiffusionLane(pipeline, kind="image", open_adapter=opens, read_ahead=reads)
    for name in ("a", "b"):
        rendered(lane, [controlled(family, name, "StableDiffusionControlNetPipeline", "image", [Control(image, net)])])

    assert seen == [("read canny", "inputs"), ("opened", "MainThread")]
    lane.close()


@pytest.mark.slow
def test_a_dropped_adapter_leaves_nothing_behind(tmp_path: Path) -> None:
    family, pipeline = FAMILIES["sd15"], FAMILIES["sd15"].build()
    net = saved(controlnet_for(pipeline), tmp_path, "canny")
    image = picture_file(tmp_path / "map.png", family.size, family.size)
    held: list[weakref.ref[Any]] = []

    def opens(adapter: Adapter) -> Any:
        module = opens_on_cpu(pipeline)(adapter)
        held.append(weakref.ref(module))
        return module

    lane = DiffusionLane(pipeline, kind="image", open_adapter=opens)
    rendered(lane, [controlled(family, "a", "StableDiffusionControlNetPipeline", "image", [Control(image, net)])])
    lane.drop_adapters([net.component])
    gc.collect()

    assert [ref() for ref in held] == [None]
    lane.close()
