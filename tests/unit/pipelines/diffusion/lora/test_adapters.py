"""LoRAs and noise schedulers by request give what diffusers gives, whatever other jobs use on the same modules."""

from __future__ import annotations

import copy
import functools
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint.noise_schedulers import compatible_schedulers
from models.errors import BadModel, UnknownModel
from models.lora_files import LoraFolder, held_bytes
from models.spec import ModelSpec
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion.lora import adapters
from pipelines.diffusion_interface import Lora
from pipelines.interface import Failed, Rendered, WeightsChanged
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest
from server.jobs.request.resolution import resolve
from tests.support.lanes.lane_play import direct, ends, gap, play, rendered, request
from tests.support.lanes.loras import make_lora, with_adapters
from tests.support.lanes.stock_families import FAMILIES

pytestmark = pytest.mark.slow

SD = FAMILIES["sd15"]
ask = functools.partial(request, SD)
MERGED = 1e-4
ALIEN = {"unet.nowhere.lora_A.weight": torch.zeros(2, 8), "unet.nowhere.lora_B.weight": torch.zeros(8, 2)}


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lora, Lora]:
    folder = tmp_path_factory.mktemp("loras")
    return make_lora(folder, "ink", 1), make_lora(folder, "wash", 2)


def test_jobs_with_different_loras_at_once_each_give_what_diffusers_gives(loras: tuple[Lora, Lora]) -> None:
    ink, wash = loras
    lane = DiffusionLane(SD.build(), kind="image")
    requests = [
        ask("plain", seed=1),
        ask("ink", seed=2, loras=(ink,)),
        ask("both", seed=3, loras=(ink, wash)),
        ask("weaker", seed=4, loras=(Lora(ink.name, ink.path, 0.2),)),
    ]

    done = rendered(lane, requests)

    for wanted in requests:
        assert gap(done[wanted.id].frames, with_adapters(wanted)) <= MERGED
        assert done[wanted.id].batch_peak == 1, "no two have the same set"
    without = with_adapters(ask("ink", seed=2))
    assert gap(done["ink"].frames, without) > 100 * MERGED, "a LoRA that does nothing proves nothing"
    lane.close()


def test_jobs_with_the_same_loras_share_forwards(loras: tuple[Lora, Lora]) -> None:
    lane = DiffusionLane(SD.build(), kind="image")
    four = [ask(name, seed=seed, loras=loras[:1]) for seed, name in enumerate("abcd")]
    rendered(lane, four)  # proves that they merge

    done = rendered(lane, four)

    assert all(end.batch_peak > 1 for end in done.values())
    assert all(gap(done[wanted.id].frames, with_adapters(wanted)) <= MERGED for wanted in four)
    lane.close()


def test_a_lora_leaves_no_trace_on_later_jobs(loras: tuple[Lora, Lora]) -> None:
    lane = DiffusionLane(SD.build(), kind="image")
    before = rendered(lane, [ask("a")])["a"].frames
    rendered(lane, [ask("b", loras=loras)])

    assert gap(rendered(lane, [ask("a")])["a"].frames, before) == 0.0
    lane.close()


def test_a_lora_of_another_model_fails_its_job_alone_and_says_so(tmp_path: Path, loras: tuple[Lora, Lora]) -> None:
    save_file(ALIEN, tmp_path / "alien.safetensors")
    lane = DiffusionLane(SD.build(), kind="image")
    lane.admit(ask("alien", loras=(Lora("alien", str(tmp_path / "alien.safetensors"), 1.0),)))
    lane.admit(ask("good", loras=loras[:1]))

    done = ends(play(lane))

    assert isinstance(done["good"], Rendered)
    assert isinstance(done["alien"], Failed)
    assert done["alien"].code == "bad_request"
    assert done["alien"].message == "The LoRA alien does not fit this model: it is for none of its layers."
    lane.close()


def test_a_lora_for_other_components_alone_is_refused(tmp_path: Path, loras: tuple[Lora, Lora]) -> None:
    """Stable Diffusion has no second text encoder: diffusers accepts the file and does nothing with it."""
    state = {name.replace("unet.", "text_encoder_2."): tensor for name, tensor in load_file(loras[0].path).items()}
    save_file(state, tmp_path / "other.safetensors")
    lane = DiffusionLane(SD.build(), kind="image")

    lane.admit(ask("other", loras=(Lora("other", str(tmp_path / "other.safetensors"), 1.0),)))
    (failed,) = ends(play(lane)).values()

    assert isinstance(failed, Failed)
    assert failed.code == "bad_request"
    assert failed.message == "The LoRA other does not fit this model: it is for none of its layers."
    lane.close()


@pytest.mark.parametrize("extra", ["unet.down_blocks.7.to_q", "text_encoder_2.layers.0.q_proj"])
def test_a_lora_of_which_a_part_fits_is_used_with_a_warning(
    tmp_path: Path, loras: tuple[Lora, Lora], extra: str
) -> None:
    state = load_file(loras[0].path)
    n_layers = len(state) // 2
    more = {f"{extra}.lora_A.weight": torch.zeros(2, 8), f"{extra}.lora_B.weight": torch.zeros(8, 2)}
    save_file(state | more, tmp_path / "wider.safetensors")
    wider = Lora("wider", str(tmp_path / "wider.safetensors"), loras[0].weight)
    lane = DiffusionLane(SD.build(), kind="image")

    done = rendered(lane, [ask("wider", loras=(wider,)), ask("whole", loras=loras[:1])])
    again = rendered(lane, [ask("again", loras=(wider,))])["again"]

    says = f"The LoRA wider: 1 of its {n_layers + 1} layers are not in this model and were left out: {extra}."
    assert done["wider"].warnings == again.warnings == (says,)
    assert done["whole"].warnings == ()
    assert gap(done["wider"].frames, with_adapters(ask("wider", loras=loras[:1]))) <= MERGED
    lane.close()


def test_a_lora_at_weight_zero_changes_nothing_and_says_so(tmp_path: Path, loras: tuple[Lora, Lora]) -> None:
    """DoRA's magnitudes would scale the weights even then."""
    state = load_file(loras[0].path)
    ups = [name for name in state if name.endswith("lora_B.weight")]
    magnitudes = {
        name.replace("lora_B.weight", "lora_magnitude_vector"): torch.full((len(state[name]),), 2.0) for name in ups
    }
    save_file(state | magnitudes, tmp_path / "dora.safetensors")
    off, on = (Lora("dora", str(tmp_path / "dora.safetensors"), weight) for weight in (0.0, 1.0))
    lane = DiffusionLane(SD.build(), kind="image")

    done = rendered(lane, [ask("off", seed=1, loras=(off,)), ask("on", seed=1, loras=(on,)), ask("plain", seed=1)])

    assert done["off"].warnings == ("The LoRA dora has weight 0 and changes nothing.",)
    assert gap(done["off"].frames, done["plain"].frames) == 0.0
    assert gap(done["on"].frames, done["plain"].frames) > 100 * MERGED
    lane.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_estimated_bytes_of_a_lora_are_what_it_takes(tmp_path: Path, loras: tuple[Lora, Lora], dtype: Any) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in load_file(loras[0].path).items()}, tmp_path / "x.safetensors")
    lane = DiffusionLane(SD.build(), kind="image")
    bare = lane.weight_bytes

    rendered(lane, [ask("a", loras=(Lora("x", str(tmp_path / "x.safetensors"), 1.0),))])

    assert lane.weight_bytes - bare == held_bytes(tmp_path / "x.safetensors", float_bytes=4)
    lane.close()


def test_a_lora_is_loaded_between_forwards_only(loras: tuple[Lora, Lora]) -> None:
    """A preempted forward goes on with the adapters that it began with."""
    ink, wash = loras
    lane = DiffusionLane(SD.build(), kind="image")
    first, second = ask("first", seed=2, loras=(ink,)), ask("second", seed=3, loras=(wash,))
    expected = with_adapters(first)
    lane.admit(first)
    updates = list(lane.step())
    while not (lane.mid_forward and (next_step := lane.next_step()) and next_step.stage == "denoising"):
        updates += lane.step(should_yield=lambda: True)
    lane.admit(second)

    updates += lane.step(should_yield=lambda: True)
    done = ends([*updates, *play(lane)])

    assert isinstance(done["first"], Rendered)
    assert isinstance(done["second"], Rendered)
    assert gap(done["first"].frames, expected) <= MERGED
    lane.close()


def test_a_loaded_lora_counts_with_its_component(monkeypatch: pytest.MonkeyPatch, loras: tuple[Lora, Lora]) -> None:
    monkeypatch.setattr(adapters, "MAX_ADAPTERS", 1)
    ink, wash = loras
    lane = DiffusionLane(SD.build(), kind="image")
    bare, size = dict(lane.components), sum(t.nbytes for t in load_file(ink.path).values())

    rendered(lane, [ask("a", loras=(ink,))])
    assert lane.components["unet"] == bare["unet"] + size
    assert [note for note in lane.take_costs() if isinstance(note, WeightsChanged)] == [WeightsChanged()]

    rendered(lane, [ask("b", loras=(wash,))])
    assert lane.components["unet"] == bare["unet"] + size, "the other one was dropped"
    rendered(lane, [ask("c", loras=(ink, wash))])
    assert lane.components["unet"] == bare["unet"] + 2 * size, "both are in use at once"
    assert {name: n for name, n in lane.components.items() if name != "unet"} == {
        name: n for name, n in bare.items() if name != "unet"
    }
    lane.close()


def test_a_lora_loaded_for_a_job_that_fails_over_another_lora_is_counted(
    tmp_path: Path, loras: tuple[Lora, Lora]
) -> None:
    save_file(ALIEN, tmp_path / "alien.safetensors")
    lane = DiffusionLane(SD.build(), kind="image")
    bare, size = lane.weight_bytes, sum(t.nbytes for t in load_file(loras[0].path).values())

    lane.admit(ask("a", loras=(loras[0], Lora("alien", str(tmp_path / "alien.safetensors"), 1.0))))
    assert isinstance(ends(play(lane))["a"], Failed)

    assert lane.weight_bytes == bare + size
    assert lane.take_costs() == [WeightsChanged()]
    lane.close()


def test_a_lora_file_that_was_rewritten_is_loaded_again(tmp_path: Path, loras: tuple[Lora, Lora]) -> None:
    path = tmp_path / "ink.safetensors"
    shutil.copy(loras[0].path, path)
    before = Lora("ink", str(path), 0.8, stamp=1)
    lane = DiffusionLane(SD.build(), kind="image")
    old = rendered(lane, [ask("a", loras=(before,))])["a"].frames
    shutil.copy(loras[1].path, path)

    new = rendered(lane, [ask("b", loras=(Lora("ink", str(path), 0.8, stamp=2),))])["b"].frames

    assert gap(new, with_adapters(ask("b", loras=(loras[1],)))) <= MERGED
    assert gap(new, old) > 100 * MERGED
    lane.close()


def test_a_scheduler_by_name_gives_what_diffusers_gives_while_others_use_the_checkpoints_own(
    loras: tuple[Lora, Lora],
) -> None:
    lane = DiffusionLane(SD.build(), kind="image")
    solver, usual = ask("solver", scheduler="DPMSolverMultistepScheduler"), ask("usual")

    done = rendered(lane, [solver, usual])

    pipeline = SD.build()
    expected_usual = direct(pipeline, usual)
    pipeline.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(copy.deepcopy(pipeline.scheduler.config))
    assert gap(done["solver"].frames, direct(pipeline, solver)) <= MERGED
    assert gap(done["usual"].frames, expected_usual) <= MERGED
    assert done["solver"].scheduler == "DPMSolverMultistepScheduler"
    lane.close()


def test_schedulers_that_fit_are_read_from_diffusers() -> None:
    found = compatible_schedulers({"scheduler": ["diffusers", "PNDMScheduler"]}, {})

    assert found[0] == "PNDMScheduler"
    assert "DPMSolverMultistepScheduler" in found
    assert compatible_schedulers({"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, {}) == (
        "FlowMatchEulerDiscreteScheduler",
    )
    assert compatible_schedulers({}, {}) == ()


def test_only_schedulers_that_know_what_the_denoiser_predicts_are_offered() -> None:
    """tiny-scenes offered Euler, which cannot predict flow: each such job failed at its first step."""
    found = compatible_schedulers(
        {"scheduler": ["diffusers", "DPMSolverMultistepScheduler"]}, {"prediction_type": "flow_prediction"}
    )

    assert found == (
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "DEISMultistepScheduler",
        "UniPCMultistepScheduler",
    )


SPEC = ModelSpec(name="m", type="image", path=None, source="m", schedulers=("A", "B"), takes_loras=True)
KNOWN = ModelSpec(name="m", type="image", path=None, source="m", arguments=frozenset({"prompt"}))


def stored(spec: ModelSpec = SPEC, find: Any = None, **wanted: Any) -> dict[str, Any]:
    asked = GenerateRequest(prompt="x", type="image", **wanted)
    return resolve(asked, spec, drawn_seed=1, auto_dtype="float32", priority=0, find_lora=find).request


def test_an_empty_negative_prompt_is_dropped_for_a_model_that_takes_none() -> None:
    assert stored(KNOWN, negative_prompt="")["negative_prompt"] is None
    assert stored(SPEC, negative_prompt="")["negative_prompt"] == ""


def test_a_request_is_stored_with_the_file_of_each_lora(loras: tuple[Lora, Lora]) -> None:
    path = Path(loras[0].path)
    found = stored(find=lambda name: path, loras=(("ink", 0.5),), scheduler="B")

    n_bytes = sum(tensor.nbytes for tensor in load_file(path).values())
    assert found["loras"] == [
        {"name": "ink", "path": str(path), "weight": 0.5, "stamp": path.stat().st_mtime_ns, "n_bytes": n_bytes}
    ]
    assert found["scheduler"] == "B"


@pytest.mark.parametrize(
    ("spec", "wanted", "says"),
    [
        (SPEC, {"scheduler": "C"}, "scheduler must be one of A, B for m."),
        (ModelSpec(name="m", type="image", path=None, source="m"), {"scheduler": "C"}, "scheduler: the scheduler of m"),
        (
            ModelSpec(name="m", type="image", path=None, source="m"),
            {"loras": (("a", 1.0),)},
            "loras: m does not support LoRAs.",
        ),
        (KNOWN, {"negative_prompt": "blurred"}, "negative_prompt: m does not support this parameter."),
        (KNOWN, {"guidance_scale": 3.0}, "guidance_scale: m does not support this parameter."),
        (KNOWN, {"steps": 3}, "steps: m does not support this parameter."),
        (SPEC, {"loras": (("a", 1.0), ("a", 0.5))}, "loras: each LoRA may be listed only once."),
        (SPEC, {"loras": (("inc", 1.0),)}, "loras: There is no LoRA of that name. Did you mean 'ink'"),
    ],
)
def test_a_knob_that_does_not_apply_is_refused_by_its_name(
    tmp_path: Path, spec: ModelSpec, wanted: dict[str, Any], says: str
) -> None:
    (tmp_path / "ink.safetensors").write_bytes(b"")

    with pytest.raises(BadRequest) as refused:
        stored(spec, LoraFolder(tmp_path).find, **wanted)

    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "ink.safetensors", ""])
def test_a_lora_is_found_by_name_and_never_by_path(tmp_path: Path, loras: tuple[Lora, Lora], name: str) -> None:
    folder = LoraFolder(Path(loras[0].path).parent)

    assert folder.names() == ["ink", "wash"]
    assert folder.find("ink") == Path(loras[0].path)
    with pytest.raises(UnknownModel):
        folder.find(name)


def test_a_pickle_with_the_name_of_a_lora_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.safetensors").write_bytes(b"\x80\x04\x95" + bytes(64))

    with pytest.raises(BadModel):
        LoraFolder(tmp_path).find("evil")
