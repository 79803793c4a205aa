"""From a spec to a lane: the checkpoint as it lies on disk, served by the lane of its kind; what is hostile never runs."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from models.catalogue import Catalogue
from models.errors import LoadFailed
from models.loading.load import load, serving_dtype
from models.preflight import read_config
from models.spec import ModelSpec
from pipelines.diffusion.lane import DiffusionLane
from pipelines.interface import ChatRequest, Message, Replied
from tests.support.checkpoints import chat_folder, stable_diffusion_folder, write_json
from tests.support.lane_play import rendered, request
from tests.support.stock_families import FAMILIES, stable_diffusion, wan
from tests.support.tiny_chat import tiny_model, tiny_tokenizer


def listed(data_dir: Path, name: str) -> ModelSpec:
    return Catalogue.open(data_dir=data_dir, cache_dir=data_dir, builtin=data_dir / "none").get(name)


def test_a_saved_image_pipeline_becomes_a_lane_of_exactly_the_bytes_the_catalogue_promised(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path / "models/sd")
    spec = listed(tmp_path, "sd")

    lane = load(spec, device="cpu")

    assert (lane.kind, lane.cache_bytes) == ("image", 0)
    assert lane.weight_bytes == pytest.approx(spec.weight_bytes, rel=0.02)  # buffers that are not saved


def test_a_saved_video_pipeline_becomes_a_video_lane(tmp_path: Path) -> None:
    wan().save_pretrained(tmp_path / "models/wan")

    assert load(listed(tmp_path, "wan"), device="cpu").kind == "video"


def test_a_checkpoint_with_only_fp16_files_is_loaded_from_them(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path / "models/sd", variant="fp16")

    assert load(listed(tmp_path, "sd"), device="cpu").kind == "image"


def save_chat(folder: Path) -> None:
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def test_a_saved_language_model_becomes_a_lane_that_answers(tmp_path: Path) -> None:
    save_chat(tmp_path / "models/tiny")
    lane = load(listed(tmp_path, "tiny"), device="cpu", cache_bytes=4 << 20)
    lane.admit(ChatRequest(id="1", messages=(Message("user", "hello"),), max_tokens=4))

    updates = [update for _ in range(8) for update in lane.step()]

    (reply,) = [update for update in updates if isinstance(update, Replied)]
    assert reply.completion_tokens == 4
    assert 0 < lane.cache_bytes <= 4 << 20
    lane.close()


def test_a_language_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    save_chat(tmp_path / "models/tiny")
    for path in (tmp_path / "models/tiny").glob("*.jinja"):
        path.unlink()

    with pytest.raises(LoadFailed, match="no chat template"):
        load(listed(tmp_path, "tiny"), device="cpu", cache_bytes=1 << 20)


def test_a_model_not_fetched_yet_says_so(tmp_path: Path) -> None:
    spec = ModelSpec(name="m", type="chat", path=None, source="owner/name")

    with pytest.raises(LoadFailed, match="not downloaded yet"):
        load(spec, device="cpu")


def test_a_folder_that_turned_hostile_after_it_was_listed_is_not_opened(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "models/sd")
    spec = listed(tmp_path, "sd")
    (folder / "unet/diffusers.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")

    with pytest.raises(LoadFailed, match="code of its own"):
        load(spec, device="cpu")

    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "component",
    [
        ["diffusers", "DiffusionPipeline"],  # a class, but no component
        ["diffusers", "logging"],
        ["transformers", "pipeline"],
        ["transformers", "Trainer"],
        ["stable_diffusion", "os"],
        ["transformers", "NoSuchClass"],
    ],
)
def test_a_component_that_is_no_component_class_is_refused(tmp_path: Path, component: list[str]) -> None:
    folder = tmp_path / "models/sd"
    stable_diffusion().save_pretrained(folder)
    spec = listed(tmp_path, "sd")
    write_json(folder / "model_index.json", read_config(folder / "model_index.json") | {"unet": component})

    with pytest.raises(LoadFailed, match="no component class"):
        load(spec, device="cpu")


def test_files_that_do_not_fit_fail_with_a_message_that_names_no_path(tmp_path: Path) -> None:
    chat_folder(tmp_path / "models/broken")
    spec = listed(tmp_path, "broken")

    with pytest.raises(LoadFailed) as raised:
        load(spec, device="cpu")

    assert str(tmp_path) not in raised.value.message
    assert raised.value.detail


def test_auto_means_float32_on_cpu_and_bfloat16_on_a_gpu_unless_the_entry_says(tmp_path: Path) -> None:
    spec = ModelSpec(name="m", type="image", path=tmp_path, source="m")

    assert serving_dtype(spec, "cpu") is torch.float32
    assert serving_dtype(spec, "cuda:0") is torch.bfloat16
    assert (
        serving_dtype(ModelSpec(name="m", type="image", path=tmp_path, source="m", dtype="float16"), "cuda")
        is torch.float16
    )


def test_a_model_held_off_the_device_gives_the_same_picture_and_says_that_it_is_slow(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path / "models/sd")
    spec = listed(tmp_path, "sd")
    frames = []
    for offload in (False, True):
        lane = load(spec, device="cpu", offload=offload)
        assert isinstance(lane, DiffusionLane)
        assert bool(lane.warnings) == offload
        frames.append(rendered(lane, [request(FAMILIES["sd15"], "a", steps=2)])["a"].frames)
        lane.close()

    assert np.array_equal(*frames)


def test_verdicts_of_a_lane_spare_the_next_one_of_the_checkpoint_its_proofs(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path / "models/sd")
    spec = listed(tmp_path, "sd")
    first = load(spec, device="cpu")
    assert isinstance(first, DiffusionLane)
    rendered(first, [request(FAMILIES["sd15"], name, steps=2) for name in "ab"])
    second = load(spec, device="cpu", verdicts=dict(first.verdicts))
    assert isinstance(second, DiffusionLane)

    assert second.merging == first.merging == "on"
    done = rendered(second, [request(FAMILIES["sd15"], name, steps=1) for name in "ab"])
    assert done["a"].batch_peak == 2, "merged from the first step on"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_while_loading_passes_through_and_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    stable_diffusion().save_pretrained(tmp_path / "models/sd")
    spec = listed(tmp_path, "sd")
    held: list[weakref.ref[object]] = []

    def full(pipeline: object, *_: object, **__: object) -> None:
        held.append(weakref.ref(pipeline))
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("models.loading.building._turn_knobs", full)
        with pytest.raises(type(error), match=str(error)):
            load(spec, device="cpu")

    assert held[0]() is None
    assert load(spec, device="cpu").kind == "image"
