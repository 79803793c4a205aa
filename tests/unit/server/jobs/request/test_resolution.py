"""What a request's pictures and clips mean for a model: its pipeline class, sizes, strength, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

import tests.fakes
from models.checkpoint.pipeline_tasks import tasks_of
from models.pipeline_signature import pipeline_signature
from models.spec import Defaults, Limits, ModelSpec
from pipelines.diffusion_interface import DiffusionRequest, MediaFile
from server.errors import BadRequest
from server.job import State
from server.jobs.request.generate_request import GenerateRequest, WantedControl
from server.jobs.request.resolution import ResolvedRequest, resolve
from server.jobs.request.stored_request import engine_job
from server.store.jobs import JobRow


def model(pipeline: str, name: str = "", settings: Mapping[str, object] | None = None, **values: Any) -> ModelSpec:
    """A model whose checkpoint has the components that its class requires."""
    signature = pipeline_signature(pipeline)
    assert signature is not None
    tasks = tasks_of(pipeline, signature.required, {}, settings)
    is_video = tasks[0].arguments & {"num_frames", "video"}
    defaults = Defaults(
        steps=20, width=512, height=512, num_frames=81 if is_video else None, fps=16 if is_video else None
    )
    limits = Limits(size_multiple=16 if is_video else 8, frames_multiple=4 if is_video else 1,
                    frames_remainder=1 if is_video else 0)  # fmt: skip
    fields = {"defaults": defaults, "limits": limits, "arguments": tasks[0].arguments} | values
    return ModelSpec(name=name or pipeline.removesuffix("Pipeline").lower(), type="video" if is_video else "image",
                     path=None, source="test", pipeline=pipeline, tasks=tasks, **fields)  # fmt: skip


SD = model("StableDiffusionPipeline", "sd")
INPAINTING = model("StableDiffusionInpaintPipeline", "sd-inpainting")
KONTEXT = model("FluxKontextPipeline", "kontext")
FLUX2 = model("Flux2Pipeline", "flux2")
EDIT_PLUS = model("QwenImageEditPlusPipeline", "edit-plus")
WAN = model("WanPipeline", "wan")
WAN_I2V = model("WanImageToVideoPipeline", "wan-i2v")
LTX = model("LTXPipeline", "ltx")
COSMOS = model("CosmosVideoToWorldPipeline", "cosmos")
VACE = model("WanVACEPipeline", "vace")
SVD = model("StableVideoDiffusionPipeline", "svd")
UPSCALE = model("StableDiffusionUpscalePipeline", "upscale")
ALL = (SD, INPAINTING, KONTEXT, FLUX2, EDIT_PLUS, WAN, WAN_I2V, LTX, COSMOS, VACE, SVD, UPSCALE)

PICTURE = MediaFile("/files/picture.png", "aa", 768, 512)
CLIP = MediaFile("/files/clip.mp4", "cc", 640, 352, num_frames=30, fps=10.0)


def resolved(spec: ModelSpec, files: Mapping[str, MediaFile] | None = None, **fields: Any) -> ResolvedRequest:
    """Resolves a request whose files are `PICTURE` and `CLIP` unless given by their places."""
    request = GenerateRequest(prompt="a fox", type=spec.type, **fields)  # type: ignore[arg-type]  # image or video
    found = {place: CLIP if place == "video" else PICTURE for place in request.media} | dict(files or {})
    catalogue = tests.fakes.FakeCatalogue(*ALL)
    return resolve(request, spec, drawn_seed=1, auto_dtype="float32", priority=0, files=found, models=catalogue)


def test_a_picture_for_a_class_that_needs_a_missing_package_is_refused_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.jobs.request.task_choice.is_installed", lambda module: False)
    with pytest.raises(BadRequest, match=r"^image: LTX2\w+Pipeline needs av, which is not installed: pip install av"):
        resolved(model("LTX2Pipeline"), image="f")
    resolved(model("LTX2Pipeline"))  # a prompt alone needs no such package


def engine_request(resolved: ResolvedRequest, type_: str = "image") -> DiffusionRequest:
    """Builds the request of the engine from JSON, as after a restart."""
    row = JobRow(
        id="job_1", key_id="key", type=type_, model="m", state=State.QUEUED,  # type: ignore[arg-type]
        request=json.loads(json.dumps(resolved.request)), params={}, warnings=[], charged_day=None, charged_kind=None,
        charged_units=1, attempt=1, created_at=datetime.now(UTC),
    )  # fmt: skip
    request = engine_job(row).requests[0]
    assert isinstance(request, DiffusionRequest)
    return request


@pytest.mark.parametrize(
    ("spec", "fields", "pipeline"),
    [
        (SD, {"image": "f"}, "StableDiffusionImg2ImgPipeline"),
        (SD, {"image": "f", "mask": "f"}, "StableDiffusionInpaintPipeline"),
        (INPAINTING, {"image": "f", "mask": "f"}, "StableDiffusionInpaintPipeline"),
        (KONTEXT, {"image": "f"}, "FluxKontextPipeline"),
        (KONTEXT, {"image": "f", "mask": "f"}, "FluxKontextInpaintPipeline"),
        (FLUX2, {"image": "f"}, "Flux2Pipeline"),
        (FLUX2, {"images": ("f", "g")}, "Flux2Pipeline"),
        (EDIT_PLUS, {"images": ("f", "g")}, "QwenImageEditPlusPipeline"),
        (WAN, {"video": "f"}, "WanVideoToVideoPipeline"),
        (WAN_I2V, {"image": "f", "last_image": "f"}, "WanImageToVideoPipeline"),
        (LTX, {"image": "f"}, "LTXImageToVideoPipeline"),
        (LTX, {"image": "f", "last_image": "f"}, "LTXConditionPipeline"),
        (LTX, {"video": "f"}, "LTXConditionPipeline"),
        (COSMOS, {"image": "f"}, "CosmosVideoToWorldPipeline"),
        (COSMOS, {"video": "f"}, "CosmosVideoToWorldPipeline"),
        (VACE, {"video": "f", "mask": "f", "images": ("f",)}, "WanVACEPipeline"),
        (SVD, {"image": "f"}, "StableVideoDiffusionPipeline"),
    ],
)
def test_the_inputs_choose_the_pipeline_class(spec: ModelSpec, fields: dict[str, Any], pipeline: str) -> None:
    found = resolved(spec, **fields)

    assert found.request["pipeline"] == found.params["pipeline"] == pipeline


def test_a_prompt_alone_leaves_the_class_and_the_parameters_as_they_were() -> None:
    found = resolved(SD)

    assert found.request["pipeline"] is None
    assert not {"pipeline", "inputs", "strength", "fit"} & found.params.keys()
    assert (found.params["width"], found.params["height"]) == (512, 512)


@pytest.mark.parametrize(
    ("spec", "fields", "param", "words"),
    [
        (
            SD,
            {"images": ("f",)},
            "images",
            "images: sd does not take this input. Models here that can: flux2, edit-plus.",
        ),
        (WAN, {"last_image": "f"}, "last_image", "Models here that can: ltx."),
        (KONTEXT, {"image": "f", "strength": 0.5}, "strength", "strength: kontext takes none with image."),
        (FLUX2, {"image": "f", "strength": 0.5}, "strength", "Models here that can: sd."),
        (SD, {"strength": 0.5}, "strength", "strength is of an image or a video"),
        (
            INPAINTING,
            {},
            "image",
            "sd-inpainting needs more inputs: send a picture in image and a mask for inpainting in mask",
        ),
        (INPAINTING, {"image": "f"}, "mask", "send a mask for inpainting in mask, white"),
        (SD, {"mask": "f"}, "image", "send a picture in image. Each is a file id from POST /api/files"),
        (WAN_I2V, {}, "image", "send a picture in image"),
        (COSMOS, {}, "image", "send a picture in image, or a clip in video"),
        (COSMOS, {"image": "f", "video": "f"}, "video", "takes each of them, but not together"),
        (SD, {"control": (WantedControl(image="f", type="canny"),)}, "control[0].type", "no ControlNet here"),
        (WAN, {"control": (WantedControl(image="f", type="canny"),)}, "control", "wan does not take this input"),
        (SD, {"image": "f", "strength": 0.01}, "strength", "strength must be at least 0.05 with 20 steps"),
    ],
)
def test_inputs_that_do_not_fit_the_model_are_refused_with_what_does(
    spec: ModelSpec, fields: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        resolved(spec, **fields)

    assert refused.value.param == param
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (512, 512, (512, 512)),
        (320, 200, (320, 200)),  # smaller than the model's own size, and kept
        (321, 203, (320, 200)),  # the nearest on the grid
        (4000, 3000, (592, 440)),  # as many pixels as the model makes by itself
        (40, 40, (128, 128)),  # too small to show anything
        (9000, 10, (600, 152)),  # four times as wide as high, the longest shape
    ],
)
def test_the_size_follows_the_picture_within_what_the_model_makes(
    width: int, height: int, size: tuple[int, int]
) -> None:
    found = resolved(SD, {"image": MediaFile("p", "aa", width, height)}, image="f")

    assert (found.params["width"], found.params["height"]) == size


def test_an_upscaler_makes_the_picture_larger_by_its_factor() -> None:
    found = resolved(UPSCALE, {"image": MediaFile("p", "aa", 128, 64)}, image="f")

    assert (found.params["width"], found.params["height"]) == (512, 256)


def test_a_size_or_ratio_of_the_request_wins_and_the_cut_is_told() -> None:
    by_size = resolved(SD, image="f", width=256, height=256)
    by_ratio = resolved(SD, image="f", aspect_ratio="1:1")

    assert (by_size.params["width"], by_size.params["height"]) == (256, 256)
    assert (by_ratio.params["width"], by_ratio.params["height"]) == (512, 512)
    assert by_size.warnings == (
        'image is 768x512, the output 256x256: 33% of it was cut off. fit can be "pad" or "stretch".',
    )
    assert resolved(SD, image="f", width=256, height=256, fit="pad").warnings == ()


def test_an_image_of_references_alone_has_the_size_of_the_first_one() -> None:
    first, second = MediaFile("a", "aa", 480, 320), MediaFile("b", "bb", 64, 512)

    found = resolved(EDIT_PLUS, {"images[0]": first, "images[1]": second}, images=("f", "g"))

    assert (found.params["width"], found.params["height"]) == (480, 320)


@pytest.mark.parametrize(
    ("spec", "fields", "frames"),
    [
        (WAN, {}, 49),  # 3 s of the clip at 16 frames per second
        (WAN, {"num_frames": 17}, 17),
        (WAN, {"duration": 1}, 17),
        (VACE, {}, 49),
        (LTX, {}, 81),  # the clip is its beginning
    ],
)
def test_a_changed_clip_keeps_its_length_at_the_rate_of_the_model(
    spec: ModelSpec, fields: dict[str, Any], frames: int
) -> None:
    found = resolved(spec, video="f", **fields)

    assert (found.params["numFrames"], found.params["fps"]) == (frames, 16)


def test_a_clip_longer_than_the_model_makes_is_cut_to_its_native_length() -> None:
    long = MediaFile("c", "cc", 640, 352, num_frames=3600, fps=60.0)

    assert resolved(WAN, {"video": long}, video="f").params["numFrames"] == 81


def test_the_strength_is_that_of_the_request_or_the_default_of_the_class() -> None:
    assert resolved(SD, image="f").params["strength"] == 0.8
    assert resolved(SD, image="f", strength=0.3).request["strength"] == 0.3
    assert "strength" not in resolved(LTX, video="f").params  # its argument of that name means another thing


def test_a_model_that_takes_no_prompt_says_so() -> None:
    assert resolved(SVD, image="f").warnings == ("svd takes no prompt: it was not used.",)


def test_arguments_of_the_entry_that_only_the_own_class_takes_are_left_out_with_a_warning() -> None:
    spec = model("FluxPipeline", call={"true_cfg_scale": 1.0, "joint_attention_kwargs": {}})

    found = resolved(spec, image="f", mask="f")

    assert found.request["call"].keys() <= dict(spec.call).keys()
    assert all(name in found.warnings[0] for name in spec.call if name not in found.request["call"])


def test_the_part_around_the_mask_is_made_alone_where_the_class_can() -> None:
    assert resolved(SD, image="f", mask="f", mask_padding=32).request["call"] == {"padding_mask_crop": 32}

    chroma = model("ZImagePipeline")
    whole = resolved(chroma, image="f", mask="f", mask_padding=32)
    assert "padding_mask_crop" not in whole.request["call"]
    assert "makes the whole picture" in whole.warnings[0]


def test_the_parameters_show_the_hashes_of_the_inputs_and_no_paths() -> None:
    found = resolved(VACE, video="f", mask="f", images=("f",))

    picture = {"sha256": "aa", "width": 768, "height": 512}
    assert found.params["inputs"] == {
        "mask": picture,
        "video": {"sha256": "cc", "width": 640, "height": 352, "numFrames": 30, "fps": 10.0},
        "images": [picture],
    }
    assert "/files/" not in json.dumps(found.params)


def test_the_stored_request_gives_the_engine_the_same_inputs_after_a_restart() -> None:
    request = engine_request(resolved(SD, image="f", mask="f", strength=0.5, fit="pad"))

    assert request.pipeline == "StableDiffusionInpaintPipeline"
    assert (request.inputs.image, request.inputs.mask, request.inputs.video) == (PICTURE, PICTURE, None)
    assert request.input_arguments == {"image": "image", "mask": "mask_image"}
    assert (request.strength, request.fit) == (0.5, "pad")


def test_a_job_that_an_older_version_stored_has_no_inputs() -> None:
    old = resolved(SD)
    new = ("pipeline", "inputs", "input_arguments", "strength", "fit", "upscaling", "vae", "textual_inversions")
    for name in new:
        del old.request[name]

    request = engine_request(old)

    assert request == engine_request(resolved(SD))


def test_a_clip_is_made_in_whole_patches_of_latent_frames_where_the_class_needs_them() -> None:
    own, changes = model("CogVideoXPipeline").tasks
    limits = Limits(size_multiple=16, frames_multiple=4, frames_remainder=1)
    spec = replace(
        model("CogVideoXPipeline", limits=limits), tasks=(own, replace(changes, frames=(8, 5))),
        defaults=Defaults(steps=2, width=512, height=512, num_frames=81, fps=16),
    )  # fmt: skip

    for n_frames, expected in ((1, 5), (9, 13), (12, 13), (81, 77), (500, 77)):
        clip = replace(CLIP, num_frames=n_frames, fps=16.0)
        assert resolved(spec, {"video": clip}, video="x").params["numFrames"] == expected
    with pytest.raises(BadRequest, match="a multiple of 8 plus 5"):
        resolved(spec, {"video": CLIP}, video="x", num_frames=81)
    assert resolved(spec, num_frames=81).params["numFrames"] == 81


@pytest.mark.parametrize(("width", "height"), [(63, 400), (400, 1), (64, 513)])
def test_references_that_flux_2_would_refuse_are_refused_with_their_place(width: int, height: int) -> None:
    small = MediaFile("/files/small.png", "bb", width, height)

    with pytest.raises(BadRequest, match=rf"^images\[0\] must be at least 64 pixels.*it is {width}x{height}\.$"):
        resolved(FLUX2, {"images[0]": small}, images=("x",))


def test_a_picture_follows_no_clip() -> None:
    union = model("StableDiffusionXLControlNetUnionPipeline", "union")

    with pytest.raises(BadRequest, match="must be a picture, and not a clip"):
        resolved(union, {"control[0].image": CLIP}, control=(WantedControl(image="x", type="canny"),))


def test_the_least_strength_that_an_error_names_is_one_that_is_taken() -> None:
    with pytest.raises(BadRequest, match=r"at least 0\.334 with 3 steps"):
        resolved(SD, {"image": PICTURE}, image="x", strength=0.3, steps=3)

    assert resolved(SD, {"image": PICTURE}, image="x", strength=0.334, steps=3).params["strength"] == 0.334
