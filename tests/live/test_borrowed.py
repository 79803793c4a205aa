"""Upscalers, IP-Adapters, VAEs and words through the real server: added, listed, borrowed by jobs, or run alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.families import FAMILIES, parts, vaes
from tests.support.http.live_models import serving
from tests.support.http.live_server import LiveServer
from tests.support.http.picture_doors import data_url
from tests.support.odd_files.case import encoded
from tests.support.tiny_ip_adapter import ip_adapter_tensors, save_ip_adapter
from tests.support.tiny_upscaler import save_upscaler

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("borrowed")
    family = FAMILIES["StableDiffusionPipeline"]
    family.save(folder / "tiny-sd")
    vaes.small_vae().save_pretrained(folder / "soft-vae")
    save_ip_adapter(folder / "face", ip_adapter_tensors(family.build(), parts.TEXT_DIM), parts.clip_vision())
    save_file({"emb_params": torch.randn(2, parts.TEXT_DIM)}, folder / "catstatue.safetensors")
    save_upscaler(folder / "sharp.safetensors")
    files = ("tiny-sd", "soft-vae", "face", "catstatue.safetensors", "sharp.safetensors")
    with serving(folder, [{"source": file, "name": file.partition(".")[0]} for file in files]) as live:
        yield live


PHOTO = data_url(encoded(Image.radial_gradient("L").resize((300, 200)).convert("RGB"), "PNG"))


def models(server: LiveServer) -> dict[str, Any]:
    return {model["name"]: model for model in server.get("/api/models").json["models"]}


def job(server: LiveServer, **body: Any) -> dict[str, Any]:
    usual = {"prompt": "a catstatue", "type": "image", "model": "tiny-sd", "seed": 7}
    done: dict[str, Any] = server.wait(server.submit(**usual | body))
    return done


def size(server: LiveServer, done: dict[str, Any]) -> tuple[int, int]:
    with Image.open(io.BytesIO(server.fetch(done["outputs"][0]["url"]).body)) as image:
        return image.size


def test_each_adapter_is_listed_with_the_models_that_it_fits(server: LiveServer) -> None:
    found = models(server)

    for name, kind in (("soft-vae", "vae"), ("face", "ip_adapter"), ("catstatue", "textual_inversion")):
        assert (found[name]["type"], found[name]["adapter"]["kind"]) == ("adapter", kind)
        assert "tiny-sd" in found[name]["adapter"]["fits"]
    sharp = found["sharp"]
    assert (sharp["type"], sharp["adapter"]["kind"], sharp["adapter"]["scale"]) == ("image", "upscaler", 4)
    assert sharp["inputs"] == ["image", "video"]


def test_one_job_borrows_all_kinds_and_its_picture_has_the_final_size(server: LiveServer) -> None:
    done = job(
        server, steps=3, vae="soft-vae", textual_inversions=["catstatue"], upscale={"model": "sharp", "scale": 3},
        ip_adapter={"image": PHOTO, "strength": 0.7},
    )  # fmt: skip

    params = done["params"]
    assert (params["vae"], params["textualInversions"]) == ("soft-vae", ["catstatue"])
    assert params["upscale"] == {"model": "sharp", "width": 3 * params["width"], "height": 3 * params["height"]}
    assert size(server, done) == (done["outputs"][0]["width"], done["outputs"][0]["height"]) == (96, 96)
    lent = {
        name for name, model in models(server).items() if "tiny-sd" in (model["adapter"] or {"lentTo": ()})["lentTo"]
    }
    assert lent == {"soft-vae", "face", "catstatue", "sharp"}


def test_upscaler_alone_enlarges_a_picture_tile_by_tile(server: LiveServer) -> None:
    done = job(server, model="sharp", image=PHOTO)

    assert size(server, done) == (1200, 800)
    assert (done["params"]["steps"], done["totalSteps"]) == (2, 2), "one for each tile"


def test_upscaler_is_used_by_the_extras_of_automatic1111(server: LiveServer) -> None:
    assert "sharp" in [each["name"] for each in server.get("/sdapi/v1/upscalers").json]

    made = server.post("/sdapi/v1/extra-single-image", {"image": PHOTO, "upscaler_1": "sharp", "upscaling_resize": 2})

    assert made.status == 200
    with Image.open(io.BytesIO(base64.b64decode(made.json["image"]))) as image:
        assert image.size == (600, 400)


def test_clip_is_enlarged_after_a_job_and_alone(server: LiveServer) -> None:
    clip = job(server, type="video", model="tiny-motion", prompt="waves", num_frames=8, width=64, height=32, steps=2,
               upscale={"model": "sharp", "scale": 1.5})  # fmt: skip
    made = clip["params"]["upscale"]
    assert made["width"] == clip["params"]["width"] * 1.5
    assert (clip["outputs"][0]["width"], clip["outputs"][0]["height"]) == (made["width"], made["height"])

    again = job(server, type="video", model="sharp", prompt="x", video=clip["outputs"][0]["fileId"],
                upscale={"scale": 1.5})  # fmt: skip

    assert again["outputs"][0]["width"] == made["width"] * 1.5
    assert again["params"]["numFrames"] == clip["params"]["numFrames"]
