"""A checkpoint on disk becomes the lane of its kind; a broken or hostile one fails with a reason and never runs."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.errors import LoadFailed
from models.files.json_files import read_config
from models.loading.load import load, serving_dtype
from models.spec import ModelSpec
from pipelines.chat_interface import ChatRequest
from pipelines.interface import Replied
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import chat_folder, stable_diffusion_folder, write_json
from tests.support.lanes.lane_play import rendered, request
from tests.support.lanes.loaded_models import load_diffusion, save_chat, save_stable_diffusion
from tests.support.lanes.stock_families import FAMILIES, stable_diffusion, wan
from tests.support.prompts import asked


def test_a_saved_image_pipeline_becomes_a_lane_of_the_bytes_that_the_catalogue_computed(tmp_path: Path) -> None:
    spec = save_stable_diffusion(tmp_path)

    lane = load(spec, device="cpu")

    assert (lane.kind, lane.cache_bytes) == ("image", 0)
    assert lane.weight_bytes == pytest.approx(spec.weight_bytes, rel=0.02)  # buffers are not saved


def test_a_saved_video_pipeline_becomes_a_video_lane(tmp_path: Path) -> None:
    wan().save_pretrained(tmp_path / "models/wan")

    assert load(open_catalogue(tmp_path).get("wan"), device="cpu").kind == "video"


def test_a_checkpoint_with_only_fp16_files_is_loaded_from_them(tmp_path: Path) -> None:
    stable_diffusion().save_pretrained(tmp_path / "models/sd", variant="fp16")

    assert load(open_catalogue(tmp_path).get("sd"), device="cpu").kind == "image"


def test_a_saved_language_model_becomes_a_lane_that_answers(tmp_path: Path) -> None:
    save_chat(tmp_path / "models/tiny")
    lane = load(open_catalogue(tmp_path).get("tiny"), device="cpu", cache_bytes=4 << 20)
    lane.admit(ChatRequest(id="1", prompt=asked(lane.tokenizer, "hello"), max_tokens=4))

    updates = [update for _ in range(8) for update in lane.step()]

    (reply,) = [update for update in updates if isinstance(update, Replied)]
    assert reply.completion_tokens == 4
    assert 0 < lane.cache_bytes <= 4 << 20
    lane.close()


def test_a_language_model_that_lost_its_chat_template_after_it_was_listed_is_refused(tmp_path: Path) -> None:
    save_chat(tmp_path / "models/tiny")
    spec = open_catalogue(tmp_path).get("tiny")
    for path in (tmp_path / "models/tiny").glob("*.jinja"):
        path.unlink()

    with pytest.raises(LoadFailed, match="no chat template"):
        load(spec, device="cpu", cache_bytes=1 << 20)


def test_a_model_that_is_not_downloaded_fails_with_that_reason(tmp_path: Path) -> None:
    spec = ModelSpec(name="m", type="chat", path=None, source="owner/name")

    with pytest.raises(LoadFailed, match="not downloaded yet"):
        load(spec, device="cpu")


def test_a_folder_that_turned_hostile_after_it_was_listed_is_not_opened(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "models/sd")
    spec = open_catalogue(tmp_path).get("sd")
    (folder / "unet/diffusers.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")

    with pytest.raises(LoadFailed, match="code of its own"):
        load(spec, device="cpu")

    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "component",
    [
        ["diffusers", "DiffusionPipeline"],  # a class, but not of a component
        ["diffusers", "logging"],
        ["transformers", "pipeline"],
        ["transformers", "Trainer"],
        ["stable_diffusion", "os"],
        ["transformers", "NoSuchClass"],
    ],
)
def test_a_component_that_is_no_component_class_is_refused(tmp_path: Path, component: list[str]) -> None:
    folder = tmp_path / "models/sd"
    spec = save_stable_diffusion(tmp_path)
    write_json(folder / "model_index.json", read_config(folder / "model_index.json") | {"unet": component})

    with pytest.raises(LoadFailed, match="no component class"):
        load(spec, device="cpu")


def test_files_that_do_not_fit_fail_with_a_message_that_names_no_path(tmp_path: Path) -> None:
    chat_folder(tmp_path / "models/broken")
    spec = open_catalogue(tmp_path).get("broken")

    with pytest.raises(LoadFailed) as raised:
        load(spec, device="cpu")

    assert str(tmp_path) not in raised.value.message
    assert raised.value.detail


def test_auto_stands_for_float32_on_a_cpu_and_bfloat16_on_a_gpu(tmp_path: Path) -> None:
    spec = ModelSpec(name="m", type="image", path=tmp_path, source="m")

    assert serving_dtype(spec, "cpu") is torch.float32
    assert serving_dtype(spec, "cuda:0") is torch.bfloat16
    assert serving_dtype(replace(spec, dtype="float16"), "cuda") is torch.float16


def test_an_offloaded_model_makes_the_same_picture_and_warns_that_it_is_slow(tmp_path: Path) -> None:
    spec = save_stable_diffusion(tmp_path)
    frames = []
    for offload in (False, True):
        lane = load_diffusion(spec, offload=offload)
        assert bool(lane.warnings) == offload
        assert hasattr(lane.pipeline.unet, "_diffusers_hook") == offload, "group offload is a hook of diffusers"
        frames.append(rendered(lane, [request(FAMILIES["sd15"], "a", steps=2)])["a"].frames)
        lane.close()

    assert np.array_equal(*frames)


def test_a_lane_that_gets_the_verdicts_of_an_earlier_one_merges_without_a_proof(tmp_path: Path) -> None:
    spec = save_stable_diffusion(tmp_path)
    first = load_diffusion(spec)
    rendered(first, [request(FAMILIES["sd15"], name, steps=2) for name in "ab"])
    second = load_diffusion(spec, verdicts=dict(first.verdicts))

    assert second.merging == first.merging == "on"
    done = rendered(second, [request(FAMILIES["sd15"], name, steps=1) for name in "ab"])
    assert done["a"].batch_peak == 2, "merged from the first step on"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_while_loading_passes_through_and_leaves_no_pipeline_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    spec = save_stable_diffusion(tmp_path)
    pipelines: list[weakref.ref[object]] = []

    def run_out(pipeline: object, *_: object, **__: object) -> None:
        pipelines.append(weakref.ref(pipeline))
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("models.loading.building.apply_options", run_out)
        with pytest.raises(type(error), match=str(error)):
            load(spec, device="cpu")

    assert pipelines[0]() is None
    assert load(spec, device="cpu").kind == "image"
