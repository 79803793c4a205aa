"""Pictures made from pictures by the real server, with a tiny random checkpoint: AUTOMATIC1111's API, the command line
and the Python client.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.families import FAMILIES
from server.client import AgentName, BadRequest
from tests.support.http.live_models import serving
from tests.support.http.live_server import LiveServer
from tests.support.lanes.tiny_adapters import controlnet_for
from tests.support.tiny_upscaler import save_upscaler

pytestmark = [pytest.mark.live, pytest.mark.slow]

MODEL, CONTROLNET, UPSCALER = "tiny-sd", "tiny-canny", "tiny-esrgan"
SIDE = 32
SIZE = {"width": SIDE, "height": SIDE}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("pictures")
    pipeline = FAMILIES["StableDiffusionPipeline"].build()
    pipeline.save_pretrained(folder / MODEL)
    controlnet_for(pipeline).save_pretrained(folder / CONTROLNET)
    save_upscaler(folder / f"{UPSCALER}.safetensors", scale=2)
    files = {MODEL: MODEL, CONTROLNET: CONTROLNET, UPSCALER: f"{UPSCALER}.safetensors"}
    with serving(folder, [{"source": file, "name": name} for name, file in files.items()]) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Iterator[AgentName]:
    with AgentName(f"http://127.0.0.1:{server.port}", server.key) as client:
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a picture, and a mask whose right half is white."""
    folder = tmp_path_factory.mktemp("files")
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(folder / "picture.png")
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (SIDE // 2, 0, SIDE, SIDE))
    mask.save(folder / "mask.png")
    return folder


def text(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def pixels(content: bytes) -> NDArray[np.int16]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB")).astype(np.int16)


def sdapi(server: LiveServer, route: str, **body: Any) -> list[bytes]:
    reply = server.post(f"/sdapi/v1/{route}", {"prompt": "a city", "steps": 4, "seed": 7} | SIZE | body)
    assert reply.status == 200, reply.body
    return [base64.b64decode(image) for image in reply.json["images"]]


def command_line(server: LiveServer, folder: Path, *arguments: str) -> dict[str, Any]:
    env = os.environ | {"AGENTNAME_URL": f"http://127.0.0.1:{server.port}", "AGENTNAME_API_KEY": server.key}
    command = [sys.executable, "-m", "server", "run", "a city", "--model", MODEL, "--steps", "4", "--seed", "7"]
    done = subprocess.run(
        [*command, "--json", *arguments], env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    job: dict[str, Any] = json.loads(done.stdout)
    return job


def test_the_doors_change_a_picture_in_the_same_way(
    server: LiveServer, client: AgentName, files: Path, tmp_path: Path
) -> None:
    changed = {"init_images": [text(files / "picture.png")], "denoising_strength": 0.5}
    (by_sdapi,) = sdapi(server, "img2img", override_settings={"sd_model_checkpoint": MODEL}, **changed)
    picture = files / "picture.png"
    job = client.wait(
        client.generate(
            "a city", model=MODEL, steps=4, seed=7, image=picture, strength=0.5, width=SIDE, height=SIDE
        ).job_id
    )
    by_client = client.download(job.outputs[0])
    by_command = command_line(server, tmp_path, "--image", str(picture), "--strength", "0.5", "-o", "changed.png")
    (from_text,) = sdapi(server, "txt2img", override_settings={"sd_model_checkpoint": MODEL})

    assert np.array_equal(pixels(by_sdapi), pixels(by_client))
    assert np.array_equal(pixels((tmp_path / "changed.png").read_bytes()), pixels(by_client))
    assert by_command["params"]["width"] == SIDE, "the size follows the picture"
    assert not np.array_equal(pixels(from_text), pixels(by_client))


def test_a_result_is_the_picture_of_the_next_job(server: LiveServer, client: AgentName) -> None:
    first = client.wait(client.generate("a city", model=MODEL, steps=2, width=SIDE, height=SIDE).job_id)
    output_id = first.outputs[0].url.split("?")[0].rpartition("/")[2]
    second = client.wait(client.generate("a city", model=MODEL, steps=2, image=output_id, strength=0.6).job_id)

    assert (second.outputs[0].width, second.outputs[0].height) == (SIDE, SIDE)


def test_the_white_part_of_a_mask_is_repainted(
    server: LiveServer, client: AgentName, files: Path, tmp_path: Path
) -> None:
    fields = {
        "init_images": [text(files / "picture.png")], "mask": text(files / "mask.png"), "mask_blur": 0,
        "inpainting_fill": 1, "denoising_strength": 0.75, "override_settings": {"sd_model_checkpoint": MODEL},
    }  # fmt: skip
    (whole,) = sdapi(server, "img2img", inpaint_full_res=False, **fields)
    (part,) = sdapi(server, "img2img", inpaint_full_res=True, **fields)
    (inverted,) = sdapi(server, "img2img", inpaint_full_res=True, inpainting_mask_invert=1, **fields)
    job = command_line(
        server, tmp_path, "--image", str(files / "picture.png"), "--mask", str(files / "mask.png"), "--strength",
        "0.75", "-o", "painted.png",
    )  # fmt: skip
    original, half = pixels((files / "picture.png").read_bytes()), SIDE // 2

    assert job["status"] == "completed"
    assert np.array_equal(pixels((tmp_path / "painted.png").read_bytes()), pixels(whole))
    assert not np.array_equal(pixels(whole)[:, half:], original[:, half:])
    # Laid over the picture: what the mask does not cover is the picture itself.
    assert np.array_equal(pixels(part)[:, :half], original[:, :half])
    assert not np.array_equal(pixels(part)[:, half:], original[:, half:])
    assert np.array_equal(pixels(inverted)[:, half:], original[:, half:])


def test_an_upscaler_makes_pictures_and_images_larger(server: LiveServer, files: Path, tmp_path: Path) -> None:
    checkpoint = {"override_settings": {"sd_model_checkpoint": MODEL}, "enable_hr": True, "denoising_strength": 0.5}
    (plain,) = sdapi(server, "txt2img", hr_scale=1.5, **checkpoint)
    (by_model,) = sdapi(server, "txt2img", hr_scale=1.5, hr_upscaler=UPSCALER, **checkpoint)
    extra = server.post(
        "/sdapi/v1/extra-single-image",
        {"image": text(files / "picture.png"), "upscaler_1": UPSCALER, "upscaling_resize": 1.5},
    )
    command_line(server, tmp_path, "--upscale", f"{UPSCALER}:2", "-o", "large.png")

    assert pixels(plain).shape == pixels(by_model).shape == (48, 48, 3)
    assert not np.array_equal(pixels(plain), pixels(by_model))
    assert extra.status == 200, extra.body
    assert pixels(base64.b64decode(extra.json["image"])).shape == (48, 48, 3)
    assert pixels((tmp_path / "large.png").read_bytes()).shape == (2 * SIDE, 2 * SIDE, 3)


def test_an_image_follows_a_map(server: LiveServer, client: AgentName, files: Path, tmp_path: Path) -> None:
    checkpoint = {"override_settings": {"sd_model_checkpoint": MODEL}}
    unit = {"image": text(files / "mask.png"), "module": "canny", "model": CONTROLNET, "weight": 0.8}
    (plain,) = sdapi(server, "txt2img", **checkpoint)
    (by_sdapi,) = sdapi(server, "txt2img", alwayson_scripts={"controlnet": {"args": [unit]}}, **checkpoint)
    command_line(server, tmp_path, "--control", f"canny={files / 'mask.png'}:0.8", "-o", "mapped.png")
    control = {"model": CONTROLNET, "preprocessor": "canny", "image": files / "mask.png", "strength": 0.8}
    job = client.wait(
        client.generate("a city", model=MODEL, steps=4, seed=7, width=SIDE, height=SIDE, control=[control]).job_id
    )

    assert server.get("/controlnet/model_list").json == {"model_list": [CONTROLNET]}
    assert not np.array_equal(pixels(plain), pixels(by_sdapi))
    assert np.array_equal(pixels(client.download(job.outputs[0])), pixels(by_sdapi))
    assert pixels((tmp_path / "mapped.png").read_bytes()).shape[2] == 3


def test_a_model_that_takes_no_picture_names_those_that_do(client: AgentName, files: Path) -> None:
    with pytest.raises(BadRequest, match=rf"tiny-scenes .*{MODEL}"):
        client.generate("a city", model="tiny-scenes", image=files / "picture.png")
