"""Tells which pictures and clips a diffusers pipeline class takes, and which it cannot do without. Pure; no torch.

Judges by the names of the arguments of its `__call__` and by the name of the class: a class for inpainting needs a
picture and a mask even where both arguments have None as their default. What the names cannot tell is a table below.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipelines.diffusion_interface import InputName

INPUT_NAMES: tuple[InputName, ...] = ("image", "mask", "images", "last_image", "video", "control")
# The arguments by which diffusers' classes take an input, the preferred one first.
ARGUMENTS: Mapping[InputName, tuple[str, ...]] = {
    "image": ("image", "cond_image"),
    "mask": ("mask_image", "mask", "control_mask"),
    "images": ("image_reference", "reference_images", "input_images", "images"),
    "last_image": ("last_image",),
    "video": ("video",),
    "control": ("control_image", "control_video", "conditioning_frames"),
}
CONDITIONS = "conditions"  # LTX: a list of pictures and clips, each with the number of its frame
BY_CONDITIONS: tuple[InputName, ...] = ("image", "last_image", "video")

# By diffusers' naming: parts of class names → the input that such a class cannot do without.
REQUIRED: Mapping[InputName, re.Pattern[str]] = {
    "image": re.compile(
        r"Img2Img|Image2(?=[A-Z])|ImageTo|I2I|(?<!T)I2V|Pix2Pix|Edit|Depth2|Upscale|SuperResolution|Refiner|Variation"
        r"|Inpaint|Fill"
    ),
    "mask": re.compile(r"Inpaint|Fill"),
    "video": re.compile(r"VideoTo|V2V|Upsample"),
    "control": re.compile(r"Control|Adapter"),
}
# Classes whose `image` is the map that a ControlNet or T2I-Adapter follows.
FOLLOWS_IMAGE = re.compile(r"(ControlNet(XS|PAG)*|Adapter)Pipeline$")
# Classes that read a list in `image` as several pictures for one result; others, as a batch.
REFERENCES_IN_IMAGE = re.compile(r"^(Flux2(?!.*Inpaint)|QwenImageEditPlus|QwenImage21|ZImageOmni|GlmImage|BriaFibo)")
# Arguments that another class gives another meaning, and that are therefore not filled.
NOT_FILLED = {
    "UniDiffuserPipeline": "image",  # with it, the class describes the picture
    "AnyFlowPipeline": "video",  # a tensor of earlier frames
    "AnyFlowFARPipeline": "video",
    "GlmImagePipeline": "image",  # diffusers packs pictures otherwise than transformers 5 reads them
}
# Parts of class names → why the inputs of such a class cannot be those that a request has.
UNSERVED = {
    "Onnx": "opens ONNX files",
    "ShapE": "makes an object in space",
    "LDM3D": "makes a picture with its depth",
    "DiffEdit": "needs a mask and latents that other methods of it make",
    "Pix2PixZero": "needs the directions between words",
    "ModelEditing": "changes the weights of its model",
    "RePaint": "keeps what is white in the mask, and takes no prompt",
    "CycleDiffusion": "needs a prompt that describes the picture as it is",
    "Layered": "makes several pictures, one for each layer",
    "VisualCloze": "needs a grid of examples",
    "InContext": "needs clips of reference beside the conditions",
    "TemporalRefine": "needs the latents of another pipeline",
    "ChromaInpaint": "reads a setting of its transformer that Chroma's does not have",
    "ConsisID": "needs the features of a face",
    "EasyAnimateControl": "takes its clips as tensors",
    "EasyAnimateInpaint": "takes its clips as tensors",
    "IFImg2ImgSuperResolution": "needs the picture in two sizes",
    "IFInpaintingSuperResolution": "needs the picture in two sizes",
}


@dataclass(frozen=True, slots=True)
class PipelineInputs:
    """One set of inputs that a class takes together."""

    arguments: Mapping[InputName, str] = field(default_factory=dict)  # input → argument of __call__
    required: frozenset[InputName] = frozenset()


def inputs_of(
    class_name: str, arguments: Collection[str], required_arguments: Collection[str]
) -> tuple[PipelineInputs, ...]:
    """Returns the alternatives of a class: one, or two where a picture and a clip exclude each other.

    Where `image` and `images` have one argument, it takes a list of both, and either of them satisfies the requirement.
    required_arguments: those of `__call__` without a default.
    """
    found = _arguments(class_name, arguments)
    required = frozenset(
        name
        for name, argument in found.items()
        if argument in required_arguments or (name in REQUIRED and REQUIRED[name].search(class_name))
    )
    if "image" not in found or "video" not in found or found["image"] == found["video"]:
        return (PipelineInputs(found, required),)
    others = required - {"image", "video"}
    with_image: dict[InputName, str] = {name: argument for name, argument in found.items() if name != "video"}
    with_video: dict[InputName, str] = {
        name: argument for name, argument in found.items() if name not in ("image", "last_image")
    }
    of_image: frozenset[InputName] = frozenset({"image"} if required & {"image", "video"} else ())
    return PipelineInputs(with_image, others | of_image), PipelineInputs(with_video, others | {"video"})


def _arguments(class_name: str, arguments: Collection[str]) -> dict[InputName, str]:
    usable = [name for name in arguments if name != NOT_FILLED.get(class_name)]
    found = {
        name: next(argument for argument in known if argument in usable)
        for name, known in ARGUMENTS.items()
        if any(argument in usable for argument in known)
    }
    if CONDITIONS in usable:
        found |= dict.fromkeys(BY_CONDITIONS, CONDITIONS)
    if "control" not in found and "image" in found and FOLLOWS_IMAGE.search(class_name):
        found["control"] = found.pop("image")
    if REFERENCES_IN_IMAGE.search(class_name) and "image" in found:
        found["images"] = found["image"]
    elif "image" not in found and "images" in found and "video" not in found:
        found["image"] = found["images"]
    return {name: found[name] for name in INPUT_NAMES if name in found}


def unserved_reason(
    class_name: str, required_arguments: Collection[str], inputs: Collection[PipelineInputs]
) -> str | None:
    """Says why no request can give the class all that it needs. None: a request can.

    required_arguments: those of `__call__` without a default.
    """
    for part, reason in UNSERVED.items():
        if part in class_name:
            return reason
    filled = {argument for each in inputs for argument in each.arguments.values()}
    unknown = [name for name in required_arguments if name != "prompt" and name not in filled]
    if unknown:
        return f"needs {', '.join(unknown)} besides a prompt"
    missing = [
        name
        for name, pattern in REQUIRED.items()
        if pattern.search(class_name) and not any(name in each.arguments for each in inputs)
    ]
    if missing and not any(each.arguments for each in inputs):
        return f"needs an input that none of its arguments names ({', '.join(missing)})"
    return None
