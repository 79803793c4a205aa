"""Jobs that borrow a VAE, words, IP-Adapters or an upscaler, at once with jobs that do not, over one base."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from benchmarks.families import parts, vaes
from models.adapters.adapter_files import adapter_bytes, adapter_stamp
from models.loading.adapters import open_adapter
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import Adapter, AdapterKind, DiffusionRequest, ImagePrompt, Inputs, Upscaling
from pipelines.interface import Failed, Rendered, StepCost
from pipelines.upscaling.pipeline import UpscalerPipeline
from pipelines.upscaling.upscaler import open_upscaler
from tests.support.lanes.lane_play import direct, ends, gap, play, rendered, request
from tests.support.lanes.original_layout import vae_of
from tests.support.lanes.picture_jobs import picture_file
from tests.support.lanes.stock_families import FAMILIES
from tests.support.tiny_ip_adapter import ip_adapter_tensors, save_ip_adapter
from tests.support.tiny_upscaler import save_upscaler

SD = FAMILIES["sd15"]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def adapter(path: Path, kind: AdapterKind) -> Adapter:
    return Adapter(path.stem, kind, str(path), adapter_stamp(path), adapter_bytes(path, 4))


class Base:
    """A tiny Stable Diffusion in a folder, and its lane."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = SD.build()
        self.pipeline.save_pretrained(folder)
        opens = partial(open_adapter, pipeline=self.pipeline, configs=folder, device="cpu", dtype=torch.float32)
        self.lane = DiffusionLane(self.pipeline, kind="image", open_adapter=opens)

    def library(self) -> Any:
        """Another pipeline with the same weights, which the library may change."""
        return copy.deepcopy(SD.build())


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base(tmp_path / "base")


def plain(name: str, seed: int, **wanted: Any) -> DiffusionRequest:
    return request(SD, name, seed=seed, **wanted)


def encoder(seed: int = 3) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return parts.clip_vision().eval()


def other_vae() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return vaes.small_vae().eval()


def with_ip_adapter(base: Base, folder: Path, seed: int = 0) -> Adapter:
    tensors = ip_adapter_tensors(base.pipeline, parts.TEXT_DIM, seed=seed)
    return adapter(save_ip_adapter(folder, tensors, encoder()), "ip_adapter")


def word_file(path: Path, vectors: int, seed: int = 5) -> Path:
    generator = torch.Generator().manual_seed(seed)
    save_file({"emb_params": torch.randn(vectors, parts.TEXT_DIM, generator=generator)}, path)
    return path


def opened(path: str) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


@pytest.mark.slow
def test_four_jobs_of_which_two_share_an_ip_adapter_give_what_the_library_gives(base: Base, tmp_path: Path) -> None:
    lent, photo = with_ip_adapter(base, tmp_path / "face"), picture_file(tmp_path / "photo.png", 40, 40)
    inputs = Inputs(image_prompts=(ImagePrompt((photo,), lent, 0.7),))
    jobs = [
        plain("a", 1, inputs=inputs, steps=3),
        plain("b", 2, steps=4),
        plain("c", 3, inputs=inputs, steps=4),
        plain("d", 4, steps=3),
    ]
    library = base.library()
    without = {job.id: direct(library, job) for job in jobs if job.inputs == Inputs()}
    library.load_ip_adapter(
        str(tmp_path / "face"), subfolder="", weight_name="ip-adapter.safetensors", local_files_only=True
    )
    library.set_ip_adapter_scale(0.7)
    own = [plain(job.id, job.seed, steps=job.steps, call={"ip_adapter_image": [[opened(photo.path)]]})
           for job in jobs if job.inputs != Inputs()]  # fmt: skip
    expected = without | {job.id: direct(library, job) for job in own}

    done = rendered(base.lane, jobs)

    assert max(gap(done[name].frames, frames) for name, frames in expected.items()) < 1 / 255
    shared = {frozenset(cost.request_ids) for cost in base.lane.take_costs()
              if isinstance(cost, StepCost) and cost.component == "unet"}  # fmt: skip
    assert frozenset({"a", "c"}) in shared, "jobs with the same adapter share forwards"
    assert not any(ids & {"a", "c"} and ids & {"b", "d"} for ids in shared), "and with no others"
    assert base.pipeline.unet.encoder_hid_proj is None


@pytest.mark.slow
def test_jobs_of_flux_with_an_ip_adapter_share_forwards_without_guidance(tmp_path: Path) -> None:
    flux = FAMILIES["flux"]
    pipeline = flux.build()
    tensors = ip_adapter_tensors(pipeline, parts.TEXT_DIM)
    lent = adapter(save_ip_adapter(tmp_path / "face", tensors, encoder()), "ip_adapter")
    lane = DiffusionLane(
        pipeline, kind="image",
        open_adapter=partial(open_adapter, pipeline=pipeline, device="cpu", dtype=torch.float32),
    )  # fmt: skip
    inputs = Inputs(image_prompts=(ImagePrompt((picture_file(tmp_path / "photo.png", 40, 40),), lent, 0.7),))
    jobs = [request(flux, name, seed=seed, inputs=inputs, steps=4) for seed, name in enumerate("ab")]
    alone = [rendered(lane, [job])[job.id].frames for job in jobs]

    done = rendered(lane, jobs)

    assert max(gap(done[job.id].frames, frames) for job, frames in zip(jobs, alone, strict=True)) < 1 / 255
    costs = [cost for cost in lane.take_costs() if isinstance(cost, StepCost) and cost.component == "transformer"]
    assert any(cost.rows == 2 for cost in costs)


def test_vae_in_a_single_file_equals_the_same_vae_in_a_folder(base: Base, tmp_path: Path) -> None:
    vae = other_vae()
    vae.save_pretrained(tmp_path / "vae")
    state = {name: tensor.contiguous() for name, tensor in vae.state_dict().items()}
    save_file(vae_of(state), tmp_path / "single.safetensors")
    folder, file = adapter(tmp_path / "vae", "vae"), adapter(tmp_path / "single.safetensors", "vae")

    done = rendered(base.lane, [plain("folder", 1, vae=folder), plain("file", 1, vae=file)])

    assert gap(done["folder"].frames, done["file"].frames) == 0


def test_job_without_an_ip_adapter_is_bit_for_bit_what_it_is_alone(base: Base, tmp_path: Path) -> None:
    alone = rendered(base.lane, [plain("alone", 9, deterministic=True)])["alone"].frames
    lent, photo = with_ip_adapter(base, tmp_path / "face"), picture_file(tmp_path / "photo.png", 40, 40)
    inputs = Inputs(image_prompts=(ImagePrompt((photo,), lent),))
    jobs = [plain("with", 1, inputs=inputs), plain("alone", 9, deterministic=True)]

    done = rendered(base.lane, jobs)

    assert np.array_equal(done["alone"].frames, alone)


@pytest.mark.slow
def test_jobs_with_another_vae_equal_the_library_with_that_vae(base: Base, tmp_path: Path) -> None:
    vae = other_vae()
    vae.save_pretrained(tmp_path / "vae")
    lent = adapter(tmp_path / "vae", "vae")
    jobs = [plain("a", 1, vae=lent), plain("b", 1), plain("c", 2, vae=lent), plain("d", 2)]
    library = base.library()
    expected = {job.id: direct(library, job) for job in jobs if job.vae is None}
    library.vae = vae
    expected |= {job.id: direct(library, job) for job in jobs if job.vae is not None}

    done = rendered(base.lane, jobs)

    assert max(gap(done[name].frames, frames) for name, frames in expected.items()) < 1 / 255
    assert gap(done["a"].frames, done["b"].frames) > 1 / 255
    assert done["a"].batch_peak == 4, "they share the forwards of the denoiser with jobs that keep the model's own VAE"


@pytest.mark.slow
def test_word_of_a_textual_inversion_is_known_to_its_job_alone(base: Base, tmp_path: Path) -> None:
    lent = adapter(word_file(tmp_path / "catstatue.safetensors", vectors=2), "textual_inversion")
    prompt = "a catstatue on a table"
    jobs = [
        plain("with", 1, prompt=prompt, textual_inversions=(lent,)),
        plain("without", 1, prompt=prompt),
        plain("weighted", 2, prompt="a (catstatue:1.3) here", textual_inversions=(lent,)),
        plain("other", 3),
    ]
    library = base.library()
    expected = {job.id: direct(library, job) for job in jobs if job.id in ("without", "other")}
    library.load_textual_inversion(str(tmp_path / "catstatue.safetensors"), token="catstatue", local_files_only=True)
    expected["with"] = direct(library, jobs[0])
    n_words, n_vectors = len(base.pipeline.tokenizer), len(base.pipeline.text_encoder.get_input_embeddings().weight)

    done = rendered(base.lane, jobs)

    assert max(gap(done[name].frames, frames) for name, frames in expected.items()) < 1 / 255
    assert gap(done["with"].frames, done["without"].frames) > 1 / 255
    assert (n_words, n_vectors) == (
        len(base.pipeline.tokenizer),
        len(base.pipeline.text_encoder.get_input_embeddings().weight),
    )
    assert done["with"].batch_peak == 4, "the denoiser is shared with jobs without the word"


@pytest.mark.slow
def test_picture_is_enlarged_before_it_leaves_the_lane(base: Base, tmp_path: Path) -> None:
    path = save_upscaler(tmp_path / "sharp.safetensors")
    lent = adapter(path, "upscaler")
    jobs = [
        plain("own", 1, upscaling=Upscaling(lent, 4 * SD.size, 4 * SD.size)),
        plain("other", 2, upscaling=Upscaling(lent, 3 * SD.size, 2 * SD.size)),
        plain("plain", 1),
    ]

    done = rendered(base.lane, jobs)

    upscaler = UpscalerPipeline(open_upscaler(path, torch.float32, "cpu"))
    upscaler.set_progress_bar_config(disable=True)
    assert done["own"].frames.shape == (1, 4 * SD.size, 4 * SD.size, 3)
    assert done["other"].frames.shape == (1, 2 * SD.size, 3 * SD.size, 3)
    expected = upscaled(upscaler, done["plain"].frames)
    assert np.abs(done["own"].frames - expected).max() < 2 / 255  # the direct call reads a picture of 8 bits


def upscaled(upscaler: Any, frames: NDArray[np.float32]) -> NDArray[np.float32]:
    picture = Image.fromarray((frames[0] * 255).round().astype(np.uint8))
    return np.asarray(upscaler(image=picture).images)


@pytest.mark.slow
def test_bytes_of_what_is_lent_are_counted_until_it_is_dropped(base: Base, tmp_path: Path) -> None:
    before = base.lane.weight_bytes
    photo = picture_file(tmp_path / "photo.png", 40, 40)
    face = with_ip_adapter(base, tmp_path / "face")
    word = adapter(word_file(tmp_path / "catstatue.safetensors", vectors=2), "textual_inversion")
    sharp = adapter(save_upscaler(tmp_path / "sharp.safetensors"), "upscaler")
    lent = (face, word, sharp)

    rendered(base.lane, [plain("a", 1, inputs=Inputs(image_prompts=(ImagePrompt((photo,), face),)),
                               textual_inversions=(word,), upscaling=Upscaling(sharp, 64, 64))])  # fmt: skip

    held = {name: n for name, n in base.lane.components.items() if name in {each.component for each in lent}}
    assert set(held) == {each.component for each in lent}
    for each in lent:
        assert abs(held[each.component] - each.n_bytes) <= 0.02 * each.n_bytes, each.name
    base.lane.drop_adapters([each.component for each in lent])
    assert base.lane.weight_bytes == before
    again = rendered(base.lane, [plain("b", 1, textual_inversions=(word,), prompt="a catstatue")])
    assert np.isfinite(again["b"].frames).all()


@pytest.mark.parametrize("kind", ["ip_adapter", "vae", "textual_inversion"])
def test_adapter_of_another_model_fails_its_job_alone_with_the_reason(
    base: Base, tmp_path: Path, kind: AdapterKind
) -> None:
    photo, wanted = picture_file(tmp_path / "photo.png", 40, 40), dict[str, Any]()
    if kind == "ip_adapter":
        tensors = ip_adapter_tensors(FAMILIES["sdxl"].build(), parts.TEXT_DIM)
        lent = adapter(save_ip_adapter(tmp_path / "face", tensors, encoder()), kind)
        wanted["inputs"] = Inputs(image_prompts=(ImagePrompt((photo,), lent),))
    elif kind == "vae":
        vaes.small_vae(latent_channels=8).save_pretrained(tmp_path / "vae")
        wanted["vae"] = adapter(tmp_path / "vae", kind)
    else:
        save_file({"emb_params": torch.zeros(1, parts.TEXT_DIM + 1)}, tmp_path / "word.safetensors")
        wanted["textual_inversions"] = (adapter(tmp_path / "word.safetensors", kind),)
    for job in (plain("bad", 1, **wanted), plain("good", 1)):
        base.lane.admit(job)

    done = ends(play(base.lane))

    assert isinstance(done["good"], Rendered)
    assert isinstance(done["bad"], Failed)
    assert done["bad"].code == "bad_request", done["bad"].detail
    assert "model" in done["bad"].message
