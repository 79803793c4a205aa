"""Which stock classes a checkpoint's modules make, and which pictures and clips each takes, is read from sources."""

from __future__ import annotations

import pytest

from models.checkpoint.component_configs import Configs
from models.checkpoint.pipeline_source import pipeline_source
from models.checkpoint.pipeline_tasks import tasks_of
from models.pipeline_signature import pipeline_signature

IMAGE = {"image": "image"}
INPAINT = {"image": "image", "mask": "mask_image"}
CONDITIONS = dict.fromkeys(("image", "last_image", "video"), "conditions")
REFERENCES = {"image": "image", "images": "image"}

# class → the alternatives of its inputs, as arguments of its __call__; an input with a star is required
INPUTS: dict[str, list[dict[str, str]]] = {
    "StableDiffusionPipeline": [{}],
    "StableDiffusionImg2ImgPipeline": [{"image*": "image"}],
    "StableDiffusionXLInpaintPipeline": [{"image*": "image", "mask*": "mask_image"}],
    "StableDiffusionControlNetPipeline": [{"control*": "image"}],
    "StableDiffusionXLControlNetUnionPipeline": [{"control*": "control_image"}],
    "StableDiffusionControlNetImg2ImgPipeline": [{"image*": "image", "control*": "control_image"}],
    "StableDiffusion3ControlNetInpaintingPipeline": [{"control*": "control_image", "mask*": "control_mask"}],
    "StableDiffusionXLAdapterPipeline": [{"control*": "image"}],
    "StableDiffusionInstructPix2PixPipeline": [{"image*": "image"}],
    "StableDiffusionDepth2ImgPipeline": [{"image*": "image"}],
    "StableDiffusionUpscalePipeline": [{"image*": "image"}],
    "StableDiffusionImageVariationPipeline": [{"image*": "image"}],
    "LDMSuperResolutionPipeline": [{"image*": "image"}],
    "StableVideoDiffusionPipeline": [{"image*": "image"}],
    "FluxFillPipeline": [{"image*": "image", "mask*": "mask_image"}],
    "FluxControlInpaintPipeline": [{"image*": "image", "mask*": "mask_image", "control*": "control_image"}],
    "FluxKontextPipeline": [{"image": "image"}],
    "FluxKontextInpaintPipeline": [{"image*": "image", "mask*": "mask_image", "images": "image_reference"}],
    "Flux2Pipeline": [{"image": "image", "images": "image"}],
    "QwenImageEditPipeline": [{"image*": "image"}],
    "QwenImageEditPlusPipeline": [{"image*": "image", "images": "image"}],
    "QwenImageControlNetInpaintPipeline": [{"control*": "control_image", "mask*": "control_mask"}],
    "OmniGenPipeline": [{"image": "input_images", "images": "input_images"}],
    "StableCascadeCombinedPipeline": [{"image": "images", "images": "images"}],
    "JoyImageEditPlusPipeline": [{"image*": "images", "images": "images"}],
    "KandinskyV22InpaintCombinedPipeline": [{"image*": "image", "mask*": "mask_image"}],
    "Kandinsky5I2VPipeline": [{"image*": "image"}],
    "Kandinsky6TI2VAPipeline": [{"image": "image"}],
    "WanImageToVideoPipeline": [{"image*": "image", "last_image": "last_image"}],
    "WanVideoToVideoPipeline": [{"video*": "video"}],
    "WanVACEPipeline": [{"video": "video", "mask": "mask", "images": "reference_images"}],
    "HunyuanVideoFramepackPipeline": [{"image*": "image", "last_image": "last_image"}],
    "LTXImageToVideoPipeline": [{"image*": "image"}],
    "LTXConditionPipeline": [CONDITIONS],
    "LTX2ConditionPipeline": [CONDITIONS],
    "LTXLatentUpsamplePipeline": [{"video*": "video"}],
    "CosmosVideoToWorldPipeline": [{"image*": "image"}, {"video*": "video"}],
    "HeliosPipeline": [{"image": "image"}, {"video*": "video"}],
    "AnimateDiffVideoToVideoControlNetPipeline": [{"video*": "video", "control*": "conditioning_frames"}],
    "CogVideoXFunControlPipeline": [{"control*": "control_video"}],
    "LucyEditPipeline": [{"video*": "video"}],
    "UniDiffuserPipeline": [{}],
    "AnyFlowPipeline": [{}],
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_class_takes_the_inputs_that_its_arguments_and_its_name_tell(name: str) -> None:
    source = pipeline_source(name)

    assert source is not None
    assert source.makes is not None
    assert [
        {key + "*" * (key in each.required): argument for key, argument in each.arguments.items()}
        for each in source.inputs
    ] == INPUTS[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("KandinskyV22Img2ImgPipeline", "needs image_embeds, negative_image_embeds besides a prompt"),
        ("StableDiffusionAttendAndExcitePipeline", "needs token_indices besides a prompt"),
        ("WanAnimatePipeline", "needs pose_video, face_video besides a prompt"),
        ("OnnxStableDiffusionImg2ImgPipeline", "opens ONNX files"),
        ("ShapEPipeline", "makes an object in space"),
        ("StableDiffusionDiffEditPipeline", "needs a mask and latents"),
        ("QwenImageLayeredPipeline", "makes several pictures"),
    ],
)
def test_a_class_that_needs_what_no_request_has_says_so(name: str, words: str) -> None:
    source = pipeline_source(name)

    assert source is not None
    assert source.makes is None
    assert words in (source.unserved or "")


def test_a_class_that_takes_neither_prompt_nor_picture_is_not_served() -> None:
    source = pipeline_source("DDPMPipeline")

    assert source is not None
    assert source.makes is None


# checkpoint's class → the relatives that its modules make
RELATIVES = {
    "StableDiffusionPipeline": {
        "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionControlNetPipeline",
        "StableDiffusionControlNetImg2ImgPipeline", "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionAdapterPipeline",
    },
    "FluxPipeline": {
        "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxControlNetPipeline", "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
    },
    "FluxKontextPipeline": {"FluxKontextInpaintPipeline"},
    "FluxFillPipeline": set(),
    "FluxControlPipeline": {"FluxControlImg2ImgPipeline", "FluxControlInpaintPipeline"},
    "Flux2KleinPipeline": {"Flux2KleinInpaintPipeline"},
    "QwenImageEditPipeline": {"QwenImageEditInpaintPipeline"},
    "ChromaPipeline": {"ChromaImg2ImgPipeline"},
    "SanaVideoPipeline": {"SanaImageToVideoPipeline"},
    "SanaSprintPipeline": {"SanaSprintImg2ImgPipeline"},
    "CogVideoXPipeline": {"CogVideoXVideoToVideoPipeline"},
    "WanPipeline": {"WanVideoToVideoPipeline"},
    "WanImageToVideoPipeline": set(),
    "LTXPipeline": {"LTXImageToVideoPipeline", "LTXConditionPipeline"},
    "LTX2Pipeline": {"LTX2ImageToVideoPipeline", "LTX2ConditionPipeline"},
    "HunyuanVideoPipeline": set(),  # its relative has a picture processor, and more channels
    "SkyReelsV2Pipeline": set(),
    "Kandinsky5T2VPipeline": {"Kandinsky5I2VPipeline"},
    "KandinskyV22CombinedPipeline": {"KandinskyV22Img2ImgCombinedPipeline", "KandinskyV22InpaintCombinedPipeline"},
    "AnimateDiffPipeline": {
        "AnimateDiffVideoToVideoPipeline", "AnimateDiffControlNetPipeline", "AnimateDiffSparseControlNetPipeline",
        "AnimateDiffVideoToVideoControlNetPipeline",
    },
    "StableDiffusionXLImg2ImgPipeline": {  # the refiner: nothing that makes a picture from a prompt alone
        "StableDiffusionXLInpaintPipeline", "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline", "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "StableDiffusionXLControlNetUnionInpaintPipeline",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RELATIVES)
def test_the_relatives_of_a_class_are_those_that_its_components_can_make(name: str) -> None:
    signature = pipeline_signature(name)
    assert signature is not None

    tasks = tasks_of(name, signature.required, {})

    assert tasks[0].pipeline == name
    assert {task.pipeline for task in tasks} - {name} == RELATIVES[name]


def _tasks(name: str, configs: Configs, settings: dict[str, object] | None = None) -> dict[str, dict[str, str]]:
    signature = pipeline_signature(name)
    assert signature is not None
    return {task.pipeline: dict(task.inputs) for task in tasks_of(name, signature.required, configs, settings)}


def test_the_first_frame_of_wan_is_taken_by_checkpoints_that_keep_it_in_their_latents() -> None:
    found = _tasks("WanPipeline", {}, {"expand_timesteps": True})

    assert found["WanImageToVideoPipeline"] == {"image": "image"}


@pytest.mark.parametrize(
    ("denoiser", "last"),
    [({"image_dim": 1280}, False), ({"image_dim": 1280, "pos_embed_seq_len": 514}, True), ({"image_dim": None}, True)],
)  # fmt: skip
def test_the_last_frame_of_wan_is_taken_where_its_features_have_a_place(
    denoiser: dict[str, object], last: bool
) -> None:
    found = _tasks("WanImageToVideoPipeline", {"transformer": denoiser})

    assert ("last_image" in found["WanImageToVideoPipeline"]) is last


def test_kandinsky_5_takes_a_picture_only_where_its_transformer_sees_one() -> None:
    assert "Kandinsky5I2VPipeline" not in _tasks("Kandinsky5T2VPipeline", {"transformer": {"visual_cond": False}})
    assert "Kandinsky5I2VPipeline" in _tasks("Kandinsky5T2VPipeline", {"transformer": {"visual_cond": True}})


def test_a_relative_with_a_controlnet_names_the_classes_that_may_lend_it() -> None:
    signature = pipeline_signature("StableDiffusionXLPipeline")
    assert signature is not None

    lent = {task.pipeline: dict(task.lent) for task in tasks_of("StableDiffusionXLPipeline", signature.required, {})}

    assert lent["StableDiffusionXLPipeline"] == {}
    assert lent["StableDiffusionXLControlNetPipeline"] == {"controlnet": ("ControlNetModel",)}
    assert lent["StableDiffusionXLControlNetUnionPipeline"] == {"controlnet": ("ControlNetUnionModel",)}
    assert lent["StableDiffusionXLAdapterPipeline"] == {"adapter": ("T2IAdapter",)}


@pytest.mark.slow
def test_the_relatives_include_those_of_diffusers_own_tables() -> None:
    from diffusers.pipelines import auto_pipeline as tables

    text, missing = tables.AUTO_TEXT2IMAGE_PIPELINES_MAPPING, []
    for table in (tables.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, tables.AUTO_INPAINT_PIPELINES_MAPPING):
        for key, theirs in table.items():
            own = text[key].__name__ if key in text else None
            signature = pipeline_signature(own) if own else None
            if own and signature and own != theirs.__name__:
                found = {task.pipeline for task in tasks_of(own, signature.required, {})}
                missing += [(own, theirs.__name__)] if theirs.__name__ not in found else []

    assert missing == []


def test_a_class_that_shifts_no_schedule_is_left_out_where_the_scheduler_needs_a_shift() -> None:
    found = _tasks("LTXPipeline", {"scheduler": {"use_dynamic_shifting": True}})

    assert "LTXImageToVideoPipeline" in found
    assert "LTXConditionPipeline" not in found


@pytest.mark.parametrize(
    ("patch", "factor", "expected"), [(None, 4, None), (1, 4, None), (2, 4, (8, 5)), (2, 1, (2, 0))]
)
def test_a_class_that_changes_clips_makes_whole_patches_of_latent_frames(
    patch: int | None, factor: int, expected: tuple[int, int] | None
) -> None:
    configs: Configs = {"transformer": {"patch_size_t": patch}, "vae": {"temporal_compression_ratio": factor}}
    signature = pipeline_signature("CogVideoXPipeline")
    assert signature is not None

    own, changes = tasks_of("CogVideoXPipeline", signature.required, configs)

    assert (own.frames, changes.frames) == (None, expected)
