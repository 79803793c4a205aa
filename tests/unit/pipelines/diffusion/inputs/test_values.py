"""Inputs are handed over under the names of a class's own arguments, in the form that their types ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import pytest
from PIL import Image

from pipelines.diffusion.arguments import Arguments
from pipelines.diffusion.inputs.reader import Media
from pipelines.diffusion.inputs.rules import rules_of
from pipelines.diffusion.inputs.values import input_values
from pipelines.diffusion.task_pipelines import UnknownPipeline, pipeline_class
from pipelines.diffusion_interface import DiffusionRequest, InputName

ONE, TWO, THREE = (Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(3))
MASK = Image.new("L", (8, 8))
PICTURE = DiffusionRequest(
    id="a", prompt="waves", negative_prompt=None, width=64, height=32, num_frames=None, steps=10,
    guidance_scale=None, seed=1,
)  # fmt: skip
CLIP = replace(PICTURE, num_frames=9, fps=8)


def values(cls: str, media: Media, names: dict[InputName, str], wanted: DiffusionRequest = PICTURE) -> dict[str, Any]:
    pipeline = getattr(diffusers, cls)
    request = replace(wanted, pipeline=cls, input_arguments=names)
    return input_values(media, request, pipeline, Arguments(pipeline).annotations)


def test_a_picture_and_its_mask_are_single_pictures() -> None:
    found = values(
        "StableDiffusionInpaintPipeline",
        Media(image=ONE, mask=MASK),
        {"image": "image", "mask": "mask_image"},
    )

    assert found == {"image": ONE, "mask_image": MASK}


def test_what_the_request_does_not_have_is_left_out() -> None:
    assert values("FluxKontextPipeline", Media(), {"image": "image"}) == {}


@pytest.mark.parametrize(
    ("cls", "media", "names", "expected"),
    [
        ("Flux2Pipeline", Media(images=(ONE,)), {"image": "image", "images": "image"}, {"image": [ONE]}),
        ("Flux2Pipeline", Media(image=ONE), {"image": "image", "images": "image"}, {"image": ONE}),
        (
            "Flux2Pipeline",
            Media(image=ONE, images=(TWO, THREE)),
            {"image": "image", "images": "image"},
            {"image": [ONE, TWO, THREE]},
        ),
        ("OmniGenPipeline", Media(image=ONE), {"image": "input_images"}, {"input_images": [ONE]}),
        ("ZImageOmniPipeline", Media(image=ONE), {"image": "image"}, {"image": [ONE]}),
    ],
)
def test_references_are_a_list_where_the_class_takes_one(
    cls: str, media: Media, names: dict[InputName, str], expected: dict[str, Any]
) -> None:
    assert values(cls, media, names) == expected


def test_a_clip_is_a_list_of_frames_and_its_mask_is_repeated_for_each() -> None:
    media = Media(video=(ONE, TWO, THREE), mask=MASK, images=(ONE,))
    names: dict[InputName, str] = {"video": "video", "mask": "mask", "images": "reference_images"}

    assert values("WanVACEPipeline", media, names, CLIP) == {
        "video": [ONE, TWO, THREE],
        "mask": [MASK] * 3,
        "reference_images": [ONE],
    }


def test_a_map_for_a_clip_is_its_frames_or_one_picture_for_all() -> None:
    names: dict[InputName, str] = {"control": "conditioning_frames"}
    cls = "AnimateDiffControlNetPipeline"

    assert values(cls, Media(controls=((ONE, TWO),)), names, CLIP) == {"conditioning_frames": [ONE, TWO]}
    assert values(cls, Media(controls=((ONE,),)), names, CLIP) == {"conditioning_frames": [ONE] * 9}


def test_several_maps_are_a_list_of_pictures() -> None:
    media = Media(controls=((ONE,), (TWO,)))

    assert values("FluxControlNetPipeline", media, {"control": "control_image"}) == {"control_image": [ONE, TWO]}


def test_ltx_is_told_at_which_frame_a_picture_or_clip_stands() -> None:
    names: dict[InputName, str] = {"image": "conditions", "last_image": "conditions", "video": "conditions"}
    pictures = Media(image=ONE, last_image=TWO)

    first, last = values("LTXConditionPipeline", pictures, names, CLIP)["conditions"]
    assert (first.image, first.frame_index, last.image, last.frame_index) == (ONE, 0, TWO, 8)
    (clip,) = values("LTXConditionPipeline", Media(video=(ONE, TWO)), names, CLIP)["conditions"]
    assert (clip.image, clip.video, clip.frame_index) == (None, [ONE, TWO], 0)
    first, last = values("LTX2ConditionPipeline", pictures, names, CLIP)["conditions"]
    assert (first.frames, first.index, last.frames, last.index) == (ONE, 0, TWO, -1)


def test_a_picture_to_change_has_the_size_of_the_output_and_one_to_look_at_its_own() -> None:
    changed = ("StableDiffusionImg2ImgPipeline", "FluxInpaintPipeline", "WanImageToVideoPipeline",
               "StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline")  # fmt: skip
    looked_at = ("FluxKontextPipeline", "QwenImageEditPipeline", "Flux2Pipeline", "IFSuperResolutionPipeline")

    assert [name for name in changed if rules_of(name).image_keeps_size] == []
    assert [name for name in looked_at if not rules_of(name).image_keeps_size] == []


def test_what_makes_a_picture_larger_is_given_it_in_its_smaller_size() -> None:
    arguments = Arguments(diffusers.LTXLatentUpsamplePipeline).for_request(PICTURE, {"video": [ONE]})

    assert rules_of("StableDiffusionUpscalePipeline").input_size(PICTURE) == (16, 8)
    assert (arguments["width"], arguments["height"]) == (32, 16)


def test_only_a_clip_that_the_output_goes_on_from_may_be_shorter_than_it() -> None:
    may_be_short = {"CosmosVideoToWorldPipeline": True, "LTXConditionPipeline": True, "WanVideoToVideoPipeline": False,
                    "WanVACEPipeline": False, "LucyEditPipeline": False}  # fmt: skip

    assert {name: rules_of(name).clip_may_be_short for name in may_be_short} == may_be_short


def test_only_pipelines_of_diffusers_are_made() -> None:
    for name in ("AutoencoderKL", "DiffusionPipelines", "__version__", "utils"):
        with pytest.raises(UnknownPipeline):
            pipeline_class(name)
