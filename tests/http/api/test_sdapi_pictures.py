"""AUTOMATIC1111's requests that start from pictures: img2img, ControlNet units, upscaling, png-info."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.spec import Limits
from server.jobs.request.generate_request import GenerateRequest
from tests.fakes import FakeCatalogue, spec
from tests.support.http.front import Front, front
from tests.support.http.http_front import finish_jobs
from tests.support.http.picture_doors import accepted, kept, painter, picture, task

pytestmark = pytest.mark.anyio

COMMON = ("num_inference_steps", "guidance_scale", "negative_prompt")
ON_PICTURES = (*COMMON, "strength")
TEXT = task("TextPipeline", arguments=COMMON)
EDITS = task("Img2ImgPipeline", "image", image="image", arguments=ON_PICTURES)
PAINTS = task("InpaintPipeline", "image", "mask", image="image", mask="mask_image", arguments=ON_PICTURES)
CROPS = replace(PAINTS, arguments=PAINTS.arguments | {"padding_mask_crop"})
FOLLOWS = task("EditPipeline", "image", image="image", images="image", arguments=COMMON)
CATALOGUE = FakeCatalogue(
    painter("retoucher", TEXT, EDITS, PAINTS),
    painter("cropper", TEXT, EDITS, CROPS),
    painter("follower", FOLLOWS),
    spec("edges", "adapter", adapter="controlnet"),
    spec("faces", "adapter", adapter="ip_adapter"),
    spec(
        "esrgan",
        "image",
        adapter="upscaler",
        scale=4,
        limits=Limits(size_multiple=1),
        tasks=(task("UpscalerPipeline", "image", image="image", arguments=("width", "height")),),
    ),
)


def text(image: Image.Image | bytes) -> str:
    if isinstance(image, bytes):
        return base64.b64encode(image).decode()
    target = io.BytesIO()
    image.save(target, "PNG")
    return base64.b64encode(target.getvalue()).decode()


def halves(left: str | int, right: str | int, mode: str = "RGB", width: int = 64, height: int = 32) -> Image.Image:
    image = Image.new(mode, (width, height), left)
    image.paste(right, (width // 2, 0, width, height))
    return image


def opened(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


async def img2img(f: Front, model: str = "retoucher", **fields: Any) -> tuple[GenerateRequest, dict[str, Any]]:
    """Returns the request that the service accepted, and `info` of the reply."""
    requests = accepted(f)
    body = {"prompt": "A city", "init_images": [text(picture())], "override_settings": {"sd_model_checkpoint": model}}
    reply = await f.post("/sdapi/v1/img2img", body | fields)
    assert reply.status_code == 200, reply.text
    return requests[-1], json.loads(reply.json()["info"])


async def test_a_picture_is_changed_with_the_defaults_of_automatic1111(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        finish_jobs(f)
        request, info = await img2img(f, steps=20, cfg_scale=7.0, seed=-1, width=64, height=64)
        sent = await kept(f, request.image)

    assert sent.size == (48, 32)
    assert (request.strength, request.fit, request.mask, request.n) == (0.75, "stretch", None, 1)
    assert (request.width, request.height, request.steps) == (64, 64, 20)
    assert (info["ignored"], info["sd_model_name"]) == ([], "retoucher")


@pytest.mark.parametrize(("mode", "fit", "ignored"), [(0, "stretch", []), (1, "crop", []), (2, "pad", []),
                                                      (3, "stretch", ["resize_mode"])])  # fmt: skip
async def test_the_resize_mode_says_how_a_picture_is_fitted(
    tmp_path: Path, mode: int, fit: str, ignored: list[str]
) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        finish_jobs(f)
        request, info = await img2img(f, resize_mode=mode, denoising_strength=0.5)

    assert (request.fit, request.strength, info["ignored"]) == (fit, 0.5, ignored)


async def test_the_reply_repeats_the_pictures_only_when_asked(tmp_path: Path) -> None:
    body = {"init_images": ["data:image/png;base64," + text(picture())], "prompt": ""}
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        finish_jobs(f)
        plain = (await f.post("/sdapi/v1/img2img", body)).json()
        both = (await f.post("/sdapi/v1/img2img", body | {"include_init_images": True, "batch_size": 2})).json()
        none = (await f.post("/sdapi/v1/img2img", body | {"send_images": False})).json()

    assert (len(plain["images"]), plain["parameters"]["init_images"]) == (1, None)
    assert (len(both["images"]), both["parameters"]["init_images"]) == (2, body["init_images"])
    assert none["images"] == []


async def test_a_mask_is_inverted_and_blurred_as_the_request_says(tmp_path: Path) -> None:
    mask = text(halves(0, 255, "L"))
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        finish_jobs(f)
        plain, _ = await img2img(f, mask=mask, mask_blur=0, inpainting_fill=1)
        usual, _ = await img2img(f, mask=mask, inpainting_fill=1)
        turned, _ = await img2img(f, mask=mask, mask_blur=0, inpainting_mask_invert=1, inpainting_fill=1)
        alpha, _ = await img2img(f, mask=text(picture(64, 32, hole=True)), mask_blur=0, inpainting_fill=1)
        masks = [np.asarray(await kept(f, request.mask)) for request in (plain, usual, turned, alpha)]

    expected = np.asarray(halves(0, 255, "L"))
    assert np.array_equal(masks[0], expected)
    assert 0 < masks[1][16, 28] < 128 < masks[1][16, 35] < 255, "blurred by 4 pixels unless the request says how much"
    assert np.array_equal(masks[2], 255 - expected)
    assert np.array_equal(masks[3], expected), "the opaque half of a picture with transparent parts is the mask"


async def test_what_the_mask_covers_is_filled_with_what_surrounds_it(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "init_images": [text(halves("red", "blue"))], "mask": text(halves(0, 255, "L")), "mask_blur": 0
    }  # fmt: skip
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        finish_jobs(f)
        filled, info = await img2img(f, **fields)
        original, _ = await img2img(f, inpainting_fill=1, **fields)
        pictures = [np.asarray(await kept(f, request.image)) for request in (filled, original)]
        noise, of_noise = await img2img(f, inpainting_fill=2, denoising_strength=1, **fields)
        _, of_weak_noise = await img2img(f, inpainting_fill=2, **fields)

    assert np.array_equal(pictures[1], np.asarray(halves("red", "blue")))
    assert np.array_equal(pictures[0][:, :32], pictures[1][:, :32]), "what the mask does not cover stays"
    assert (pictures[0][:, 32:, 0] > 250).all()
    assert (pictures[0][:, 32:, 2] < 5).all()
    assert noise.image == original.image
    assert [each["ignored"] for each in (info, of_noise, of_weak_noise)] == [
        ["inpaint_full_res"], ["inpaint_full_res"], ["inpaint_full_res", "inpainting_fill"]
    ]  # fmt: skip


async def test_only_the_part_around_the_mask_is_made_where_the_model_can(tmp_path: Path) -> None:
    mask = text(halves(0, 255, "L"))
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        finish_jobs(f)
        usual, info = await img2img(f, "cropper", mask=mask)
        padded, _ = await img2img(f, "cropper", mask=mask, inpaint_full_res=True, inpaint_full_res_padding=32)
        whole, _ = await img2img(f, "cropper", mask=mask, inpaint_full_res=False)
        empty, _ = await img2img(f, "cropper", mask=text(Image.new("L", (64, 32))))

    assert [request.mask_padding for request in (usual, padded, whole, empty)] == [0, 32, None, None]
    assert info["ignored"] == []


async def test_a_model_that_takes_references_gets_the_picture_as_one(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        finish_jobs(f)
        request, info = await img2img(f, "follower", denoising_strength=0.6)

    assert (request.image is not None, request.strength) == (True, None)
    assert info["ignored"] == ["denoising_strength"]


async def test_fields_that_ask_for_nothing_are_not_named(tmp_path: Path) -> None:
    """The defaults of the package webuiapi, and fields that ask for something that is not done."""
    quiet = {
        "image_cfg_scale": None, "initial_noise_multiplier": 1, "styles": [], "subseed": -1, "subseed_strength": 0,
        "seed_resize_from_h": 0, "seed_resize_from_w": 0, "restore_faces": False, "tiling": False,
        "do_not_save_samples": True, "s_noise": 1, "override_settings_restore_afterwards": True, "script_args": [],
        "script_name": None, "save_images": True, "alwayson_scripts": {"ADetailer": {"args": [False]}},
    }  # fmt: skip
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        finish_jobs(f)
        _, info = await img2img(f, **quiet)
        loud = {"tiling": True, "alwayson_scripts": {"ADetailer": {"args": [{"ad_model": "x"}]}}}
        _, of_loud = await img2img(f, **quiet | loud)

    assert info["ignored"] == []
    assert of_loud["ignored"] == ["alwayson_scripts.ADetailer", "tiling"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_images": []}, "init_images must be a list of one picture"),
        ({"init_images": None}, "init_images must be a list of one picture"),
        ({"init_images": ["a", "b"]}, "init_images must be a list of one picture"),
        ({"init_images": ["http://localhost/a.png"]}, "init_images[0] must be a picture in base64"),
        ({"init_images": ["data:image/png,abc"]}, "init_images[0] must be a picture in base64"),
        ({"init_images": ["data:image/png;base64"]}, "init_images[0] must be a picture in base64"),
        ({"init_images": ["YWJj"]}, "init_images[0] must be a PNG, JPEG or WebP picture"),
        ({"mask": "YWJj"}, "mask must be a PNG, JPEG or WebP picture"),
        ({"mask": ""}, "mask must be a picture in base64"),
        ({"denoising_strength": 1.5}, "denoising_strength must be a number from 0 to 1"),
        ({"resize_mode": 4}, "resize_mode must be 0 (stretch)"),
        ({"inpainting_fill": 4}, "inpainting_fill must be 0 (fill)"),
    ],
)
async def test_an_invalid_field_is_a_400_that_names_it(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        body = {"prompt": "A city", "init_images": [text(picture())]} | fields
        reply = await f.post("/sdapi/v1/img2img", body)

    assert reply.status_code == 400
    assert reply.json()["error"].startswith(message)


async def test_controlnet_units_become_controls_and_image_prompts(tmp_path: Path) -> None:
    map_ = text(halves(0, 255, "L"))
    units = [
        {"image": map_, "module": "canny", "model": "edges [d14c016b]", "weight": 0.5, "guidance_start": 0.1,
         "guidance_end": 0.9, "pixel_perfect": True, "control_mode": "Balanced", "resize_mode": "Crop and Resize"},
        {"input_image": map_, "module": "none", "model": "edges", "enabled": False},
        {"module": "None", "model": "edges", "control_mode": 2, "union_control_type": "OpenPose"},
        {"image": {"image": map_, "mask": None}, "module": "ip-adapter_clip_sd15", "model": "faces", "weight": 0.7},
    ]  # fmt: skip
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        request, ignored = await translated_img2img(f, {"ControlNet": {"args": units}})

    first, second = request.control
    (prompt,) = request.ip_adapter
    assert (first.model, first.preprocessor, first.strength, first.start, first.end) == (
        "edges",
        "canny",
        0.5,
        0.1,
        0.9,
    )
    assert (second.image, second.preprocessor, second.type) == (request.image, "none", "pose")
    assert (prompt.model, prompt.images, prompt.strength) == ("faces", (first.image,), 0.7)
    assert ignored == {"alwayson_scripts.controlnet.args.control_mode"}


async def translated_img2img(f: Front, scripts: dict[str, Any]) -> tuple[GenerateRequest, set[str]]:
    """Returns the request that would be accepted; it need not be one that a model can do."""
    requests: list[GenerateRequest] = []

    async def refuse(key: Any, request: GenerateRequest, idempotency_key: str | None = None) -> Any:
        requests.append(request)
        return await accept(key, GenerateRequest(prompt="x", type="image", model="retoucher"))

    accept = f.service.submission.accept
    f.service.submission.accept = refuse  # type: ignore[method-assign]  # wraps the method
    finish_jobs(f)
    body = {"prompt": "A city", "init_images": [text(picture())], "alwayson_scripts": scripts}
    reply = await f.post("/sdapi/v1/img2img", body)
    assert reply.status_code == 200, reply.text
    return requests[0], set(json.loads(reply.json()["info"])["ignored"])


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ({"model": "None", "image": "YWJj"}, "alwayson_scripts.controlnet.args[0].model must be a name from GET"),
        ({"model": "retoucher"}, "alwayson_scripts.controlnet.args[0].model must be a name from GET"),
        ({"model": "edges"}, "alwayson_scripts.controlnet.args[0].image is required"),
        ({"model": "edges", "image": "YWJj"}, "alwayson_scripts.controlnet.args[0].image must be a PNG"),
        (
            {"model": "edges", "image": {"image": 1}},
            "alwayson_scripts.controlnet.args[0].image must be a picture",
        ),
        ({"model": "edges", "module": "openpose"}, "alwayson_scripts.controlnet.args[0].module must be one of none, c"),
        ({"model": "edges", "weight": "1"}, "alwayson_scripts.controlnet.args[0].weight must be a number from 0 to 10"),
        ({"model": "edges", "union_control_type": "x"}, "alwayson_scripts.controlnet.args[0].union_control_type must"),
        ("edges", "alwayson_scripts.controlnet.args[0] must be an object"),
    ],
)
async def test_an_invalid_unit_is_a_400_that_names_it(tmp_path: Path, unit: Any, message: str) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        scripts = {"controlnet": {"args": [unit]}}
        reply = await f.post("/sdapi/v1/txt2img", {"prompt": "A city", "alwayson_scripts": scripts})

    assert reply.status_code == 400
    assert reply.json()["error"].startswith(message)


async def test_adapters_and_preprocessors_are_listed(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        models = (await f.get("/controlnet/model_list")).json()
        modules = (await f.get("/controlnet/module_list")).json()["module_list"]
        version = (await f.get("/controlnet/version")).json()
        upscalers = [each["name"] for each in (await f.get("/sdapi/v1/upscalers")).json()]
        scripts = (await f.get("/sdapi/v1/scripts")).json()
        basic = base64.b64encode(f"anybody:{f.keys['pro']}".encode()).decode()
        by_password = await f.client.get("/controlnet/model_list", headers={"authorization": f"Basic {basic}"})

    assert models == by_password.json() == {"model_list": ["edges", "faces"]}
    assert modules == ["none", "canny", "invert (from white bg & black line)", "invert"]
    assert (version, scripts["img2img"]) == ({"version": 3}, ["controlnet"])
    assert upscalers == ["None", "Lanczos", "Nearest", "esrgan"]


async def extras(f: Front, **fields: Any) -> httpx.Response:
    return await f.post("/sdapi/v1/extra-single-image", {"image": text(halves("red", "blue"))} | fields)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (64, 32)),
        ({"upscaler_1": "None", "upscaling_resize": 4}, (64, 32)),
        ({"upscaler_1": "Lanczos"}, (128, 64)),
        ({"upscaler_1": "Nearest", "upscaling_resize": 1.5}, (96, 48)),
        ({"upscaler_1": "Nearest", "resize_mode": 1, "upscaling_resize_w": 96, "upscaling_resize_h": 96}, (96, 96)),
        (
            {"upscaler_1": "Nearest", "resize_mode": 1, "upscaling_resize_w": 96, "upscaling_resize_h": 96,
             "upscaling_crop": False},
            (192, 96),
        ),
    ],
)  # fmt: skip
async def test_a_picture_is_made_larger_by_resizing(
    tmp_path: Path, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    async with front(tmp_path) as f:
        reply = (await extras(f, **fields)).json()

    image = opened(reply["image"]).convert("RGB")
    assert image.size == size
    assert (image.getpixel((0, 0)), image.getpixel((size[0] - 1, 0))) == ((255, 0, 0), (0, 0, 255))
    assert reply["html_info"] == ""


async def test_several_pictures_are_made_larger_and_what_is_ignored_is_named(tmp_path: Path) -> None:
    files = [{"data": text(Image.new("RGB", (size, 8))), "name": "a.png"} for size in (8, 16)]
    async with front(tmp_path) as f:
        body = {"imageList": files, "upscaler_1": "Lanczos", "codeformer_visibility": 0.5, "gfpgan_visibility": 0}
        reply = (await f.post("/sdapi/v1/extra-batch-images", body)).json()

    assert [opened(image).size for image in reply["images"]] == [(16, 16), (32, 16)]
    assert reply["html_info"] == "<p>Ignored: codeformer_visibility</p>"


async def test_an_upscaler_of_the_catalogue_runs_as_a_job(tmp_path: Path) -> None:
    fields = {"upscaler_1": "esrgan", "resize_mode": 1, "upscaling_resize_w": 160, "upscaling_resize_h": 100}
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        finish_jobs(f)
        requests = accepted(f)
        cut = await extras(f, **fields)
        await extras(f, **fields | {"upscaling_crop": False})
        await extras(f, upscaler_1="esrgan", upscaling_resize=1.5)
        files = [{"data": text(Image.new("RGB", (size, 8)))} for size in (8, 16)]
        several = await f.post("/sdapi/v1/extra-batch-images", {"imageList": files, "upscaler_1": "esrgan"})
        models = (await f.get("/sdapi/v1/sd-models")).json()
        used = await f.used("images", "enterprise")

    sizes = [(request.model, request.width, request.height) for request in requests]
    assert sizes[:3] == [("esrgan", 200, 100), ("esrgan", 200, 100), ("esrgan", 96, 48)]
    assert sizes[3:] == [("esrgan", 16, 16), ("esrgan", 32, 16)]
    assert opened(cut.json()["image"]).size == (160, 100)
    assert (several.status_code, len(several.json()["images"]), used) == (200, 2, 5)
    assert "esrgan" not in [model["title"] for model in models]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "YWJj"}, "image must be a PNG, JPEG or WebP picture"),
        ({"image": None}, "image must be a picture in base64"),
        ({"upscaler_1": "LDSR"}, "upscaler_1 must be a name from GET /sdapi/v1/upscalers."),
        ({"upscaling_resize": 0}, "upscaling_resize must be a factor above 0"),
        (
            {"upscaler_1": "Lanczos", "resize_mode": 1, "upscaling_resize_w": 9000},
            "upscaling_resize_w and upscaling_resize_h: the result would have",
        ),
        ({"resize_mode": 2}, "resize_mode must be 0 (by a factor) or 1"),
    ],
)
async def test_an_invalid_enlargement_is_a_400(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    async with front(tmp_path) as f:
        reply = await extras(f, **fields)

    assert reply.status_code == 400
    assert reply.json()["error"].startswith(message)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_the_parameters_of_our_own_files_are_read_back(tmp_path: Path, output_format: str) -> None:
    prompt, negative = "A city, at night\n(neon:1.2), 日本", 'people, "cars": 1\nblur'
    async with front(tmp_path) as f:
        job = await f.complete(prompt=prompt, negative_prompt=negative, seed=7, steps=3, output_format=output_format)
        content = (await f.get(job["outputs"][0]["url"])).content
        info = (await f.post("/sdapi/v1/png-info", {"image": "data:image/png;base64," + text(content)})).json()

    assert info["info"].startswith(prompt)
    found = info["parameters"]
    assert (found["Prompt"], found["Negative prompt"]) == (prompt, negative)
    assert (found["Steps"], found["Seed"], found["Size-1"], found["Size-2"]) == ("3", "7", "64", "64")
    if output_format == "png":
        assert json.loads(info["items"]["agentname"])["seed"] == 7


async def test_a_picture_without_parameters_has_empty_ones_and_no_picture_is_a_400(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        plain = (await f.post("/sdapi/v1/png-info", {"image": text(picture())})).json()
        broken = await f.post("/sdapi/v1/png-info", {"image": "YWJj"})
        refused = await f.post("/sdapi/v1/interrogate", {"image": text(picture()), "model": "clip"})

    assert plain == {"info": "", "items": {}, "parameters": {}}
    assert broken.json()["error"] == "image must be a PNG, JPEG or WebP file that can be read."
    assert (refused.status_code, refused.json()["error"][:50]) == (
        400, "interrogate needs a model that describes pictures "
    )  # fmt: skip


async def test_a_second_pass_changes_each_image_at_a_larger_size(tmp_path: Path) -> None:
    async with front(tmp_path, catalogue=CATALOGUE) as f:
        finish_jobs(f)
        requests = accepted(f)
        body = {
            "prompt": "A city", "batch_size": 2, "seed": 5, "steps": 4, "enable_hr": True, "hr_scale": 1.6,
            "hr_upscaler": "Latent", "denoising_strength": 0.5, "hr_second_pass_steps": 8, "hr_prompt": "x",
        }  # fmt: skip
        reply = (await f.post("/sdapi/v1/txt2img", body)).json()
        used = await f.used("images", "enterprise")

    first, *second = requests
    assert (first.image, first.width, first.n, first.seed) == (None, None, 2, 5)
    assert [(each.width, each.height, each.n, each.seed) for each in second] == [(104, 104, 1, 5), (104, 104, 1, 6)]
    assert {(each.strength, each.steps) for each in second} == {(0.5, 8)}
    assert second[0].image != second[1].image
    assert len(reply["images"]) == 2
    info = json.loads(reply["info"])
    assert (info["all_seeds"], info["ignored"]) == ([5, 6], ["hr_prompt", "hr_upscaler"])
    assert used == 4


async def test_a_second_pass_is_named_where_the_model_takes_no_picture(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        finish_jobs(f)
        reply = (await f.post("/sdapi/v1/txt2img", {"prompt": "A city", "enable_hr": True, "hr_scale": 2})).json()
        unknown = await f.post("/sdapi/v1/txt2img", {"prompt": "A city", "hr_scale": 9})

    assert json.loads(reply["info"])["ignored"] == ["enable_hr"]
    assert unknown.json()["error"] == "hr_scale must be a number from 1 to 8."
