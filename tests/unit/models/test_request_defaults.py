"""Defaults that models.toml or the admin's routes set are checked against the checkpoint and used by requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.spec import Defaults, ModelSpec
from server.errors import BadRequest
from server.jobs.request.generate_request import GenerateRequest
from server.jobs.request.resolution import resolve
from tests.support.checkpoints import chat_folder, diffusion_folder, write_json
from tests.support.http.library_front import library, patch

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def write_models(folder: Path) -> None:
    """Writes a Stable Diffusion, a Wan and a Llama with configs only."""
    sd = diffusion_folder(
        folder / "models/sd",
        "StableDiffusionPipeline",
        denoiser={"sample_size": 64, "in_channels": 4},
        denoiser_name="unet",
        vae={"block_out_channels": [128, 256, 512, 512], "latent_channels": 4},
        scheduler=["diffusers", "PNDMScheduler"],
        text_encoder=["transformers", "CLIPTextModel"],
    )
    write_json(sd / "text_encoder/config.json", {"num_hidden_layers": 12})
    (sd / "text_encoder/model.safetensors").write_bytes((sd / "vae/diffusion_pytorch_model.safetensors").read_bytes())
    diffusion_folder(
        folder / "models/wan",
        "WanPipeline",
        denoiser={"patch_size": [1, 2, 2]},
        vae={"z_dim": 16, "scale_factor_spatial": 8, "scale_factor_temporal": 4},
    )
    chat_folder(folder / "models/llama")


async def test_every_default_can_be_changed_is_shown_with_its_origin_and_used_by_requests(tmp_path: Path) -> None:
    write_models(tmp_path)
    defaults = {
        "steps": 9, "guidance_scale": 3.5, "negative_prompt": "blurred", "width": 768, "height": 768,
        "scheduler": "DPMSolverMultistepScheduler", "clip_skip": 2,
    }  # fmt: skip
    async with library(tmp_path) as f:
        before = (await f.get("/api/models/sd")).json()
        assert before["values"]["max_clip_skip"] == 11
        assert before["origins"]["max_clip_skip"] == before["origins"]["schedulers"] == "checkpoint"
        assert before["values"]["schedulers"][0] == "PNDMScheduler"

        changed = await patch(
            f, "/api/models/sd", {"defaults": defaults, "limits": {"max_steps": 20}, "aliases": ["one"]}
        )

        assert changed.status_code == 200, changed.text
        shown = (await f.get("/api/models/one")).json()
        for key, value in defaults.items():
            assert (shown["values"][f"defaults.{key}"], shown["origins"][f"defaults.{key}"]) == (value, "models.toml")
        assert (shown["values"]["sizes.1:1"], shown["origins"]["sizes.1:1"]) == ([768, 768], "models.toml")
        assert (shown["values"]["limits.max_steps"], shown["origins"]["limits.max_steps"]) == (20, "models.toml")

        request = f.engine.jobs[await f.submit(model="one")].requests[0]
        assert (request.steps, request.guidance_scale, request.negative_prompt) == (9, 3.5, "blurred")
        assert (request.width, request.height, request.clip_skip) == (768, 768, 2)  # type: ignore[union-attr]
        assert request.scheduler == "DPMSolverMultistepScheduler"  # type: ignore[union-attr]
        own = f.engine.jobs[await f.submit(model="sd", clip_skip=0, scheduler="PNDMScheduler")].requests[0]
        assert (own.clip_skip, own.scheduler) == (None, "PNDMScheduler")  # type: ignore[union-attr]
        too_many = await f.post("/api/generate", {"prompt": "x", "type": "image", "model": "sd", "steps": 21})
        assert too_many.json()["error"] == "steps must be at most 20 for sd."


@pytest.mark.parametrize(
    ("model", "change", "words"),
    [
        ("sd", {"defaults": {"scheduler": "Euler"}}, "defaults.scheduler must be one of PNDMScheduler, "),
        ("wan", {"defaults": {"scheduler": "DDIMScheduler"}}, "defaults.scheduler"),
        ("sd", {"defaults": {"clip_skip": 12}}, "defaults.clip_skip must be at most 11"),
        ("wan", {"defaults": {"clip_skip": 1}}, "no layers of CLIP that could be left out"),
        ("sd", {"defaults": {"num_frames": 9}}, "defaults.num_frames does not apply to image models"),
        ("sd", {"defaults": {"max_tokens": 9}}, "defaults.max_tokens does not apply to image models"),
        ("llama", {"defaults": {"steps": 9}}, "defaults.steps does not apply to chat models"),
        ("llama", {"sizes": {"1:1": [64, 64]}}, "sizes does not apply to chat models"),
        ("llama", {"limits": {"max_steps": 9}}, "limits.max_steps does not apply to chat models"),
        ("llama", {"defaults": {"top_p": 1.5}}, "defaults.top_p"),
        ("sd", {"defaults": {"steps": 0}}, "defaults.steps must be more than 0"),
        ("sd", {"defaults": {"guidance_scale": -1}}, "defaults.guidance_scale must be 0 or more"),
        ("sd", {"defaults": {"steps": 151}}, "defaults.steps is 151, more than limits.max_steps, 150"),
        ("sd", {"limits": {"max_steps": 9}}, "defaults.steps is 50, more than limits.max_steps, 9"),
        ("sd", {"defaults": {"width": 500, "height": 512}}, "500x512 is not a multiple of 8"),
        ("sd", {"sizes": {"1:1": [500, 512]}}, "sizes.1:1: 500x512 is not a multiple of 8"),
        ("sd", {"sizes": {"1:1": [8000, 8000]}}, "more than limits.max_pixels"),
        ("wan", {"defaults": {"num_frames": 80}}, "80 is not a multiple of 4 plus 1"),
        (
            "sd",
            {"call": {"etta": 1.0}},
            "call.etta: StableDiffusionPipeline takes no such argument. Did you mean 'eta'?",
        ),
        ("sd", {"aliases": ["Not A Name"]}, "aliases: 'Not A Name' is not a name"),
        ("sd", {"aliases": ["wan"]}, "its alias 'wan' is the name of another model"),
    ],
)
async def test_a_default_that_no_request_could_use_is_refused_by_its_name(
    tmp_path: Path, model: str, change: dict[str, Any], words: str
) -> None:
    write_models(tmp_path)
    async with library(tmp_path) as f:
        refused = await patch(f, f"/api/models/{model}", change)

        assert refused.status_code == 400, refused.text
        assert words in refused.json()["error"]
        assert not (tmp_path / "models.toml").exists() or not (tmp_path / "models.toml").read_text().strip()
        assert (await f.get(f"/api/models/{model}")).status_code == 200


@pytest.mark.parametrize(
    ("spec", "clip_skip", "words"),
    [
        ({}, 1, "clip_skip: m has no CLIP layers that can be skipped."),
        ({"max_clip_skip": 2}, 3, "clip_skip must be at most 2 for m."),
    ],
)
def test_a_clip_skip_that_does_not_apply_is_refused_by_its_name(
    spec: dict[str, Any], clip_skip: int, words: str
) -> None:
    model = ModelSpec(name="m", type="image", path=None, source="m", **spec)

    with pytest.raises(BadRequest, match=words):
        stored_request(model, clip_skip=clip_skip)


def test_a_request_overrides_the_default_and_turns_clip_skip_off_with_zero() -> None:
    model = ModelSpec(
        name="m", type="image", path=None, source="m", max_clip_skip=2, schedulers=("A", "B"),
        defaults=Defaults(scheduler="B", clip_skip=2),
    )  # fmt: skip

    assert (stored_request(model)["scheduler"], stored_request(model)["clip_skip"]) == ("B", 2)
    assert stored_request(model, clip_skip=1, scheduler="A")["clip_skip"] == 1
    assert stored_request(model, clip_skip=0)["clip_skip"] is None


def stored_request(spec: ModelSpec, **fields: Any) -> dict[str, Any]:
    request = GenerateRequest(prompt="x", type="image", **fields)
    return resolve(request, spec, drawn_seed=1, auto_dtype="float32", priority=0).request
