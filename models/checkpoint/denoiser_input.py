"""Tells whether a denoiser takes what a pipeline class gives it: latents alone, or a picture or mask beside them.

Inpainting, image-to-video, depth and edit models have the class of their text-to-image relative, and more input
channels. Pure functions over configs and tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from models.checkpoint.component_configs import Config, Configs, positive_int
from models.errors import BadModel
from models.files.weight_header import Tensors

DENOISERS = ("transformer", "unet")
UNET = "UNet2DConditionModel"
# Classes whose text-to-image or text-to-video pipeline gives them latents alone, and how many of the VAE's cells they
# take as one: Flux and its relatives pack 2x2 cells. Others (HunyuanVideo 1.5, MotifVideo) always take a mask too.
CELLS_PER_TOKEN = {
    "UNet2DConditionModel": 1, "UNet3DConditionModel": 1, "UNetMotionModel": 1, "SD3Transformer2DModel": 1,
    "FluxTransformer2DModel": 4, "ChromaTransformer2DModel": 4, "QwenImageTransformer2DModel": 4,
    "WanTransformer3DModel": 1, "SkyReelsV2Transformer3DModel": 1, "HunyuanVideoTransformer3DModel": 1,
    "CogVideoXTransformer3DModel": 1, "LTXVideoTransformer3DModel": 1, "EasyAnimateTransformer3DModel": 1,
    "CogView4Transformer2DModel": 1, "SanaTransformer2DModel": 1,
}  # fmt: skip
# Classes that give their denoiser more than latents: those of a picture, a map or a clip, or a mask.
GIVES_MORE = re.compile(
    r"FluxFill|FluxControl(?!Net)|CogView4Control|CogVideoX(ImageTo|FunControl)|(Wan|SkyReelsV2|HunyuanVideo)ImageTo"
    r"|HunyuanSkyreels|Pix2Pix|Depth2|Upscale|SuperResolution|StableVideoDiffusion|ChronoEdit|LucyEdit|VideoToWorld"
    r"|Framepack|I2VGenXL|PIAPipeline|LDMSuperResolution"
)
# Classes that give their denoiser a mask and a masked picture too, where it has the channels for them.
GIVES_EITHER = re.compile(r"^(StableDiffusion(XL|3)?)(ControlNet(Union)?)?(PAG)?Inpaint")
# The first layer of a denoiser as single files name it; its second dimension is the number of input channels.
INPUT_LAYERS = ("input_blocks.0.0.weight", "conv_in.weight", "img_in.weight", "patch_embedding.weight")
CROSS_ATTENTION = "attn2.to_k.weight"


def check_input_channels(class_name: str, classes: Mapping[str, str], configs: Configs) -> None:
    """Raises `BadModel` that says what a denoiser with other input channels than its pipeline gives it is for.

    classes: component → class name.
    """
    if GIVES_MORE.search(class_name) or GIVES_EITHER.search(class_name):
        return
    for name in DENOISERS:
        cells, channels = CELLS_PER_TOKEN.get(classes.get(name, "")), positive_int(configs.get(name, {}), "in_channels")
        latents = (cells or 0) * latent_channels(configs)
        if channels and latents and channels != latents:
            raise BadModel(_explanation(name, channels, latents))


def takes_channels(own: str, relative: str, configs: Configs, settings: Config) -> bool:
    """Returns whether the denoiser of a checkpoint takes what a relative of the checkpoint's own class gives it.

    settings: the plain values of its model_index.json.
    """
    if GIVES_EITHER.search(relative) and not GIVES_MORE.search(own):
        return True
    return gives_more(relative, settings) == gives_more(own, settings)


def gives_more(class_name: str, settings: Config) -> bool:
    # Wan 2.2 5B has the first frame in the place of its latents.
    return GIVES_MORE.search(class_name) is not None and not settings.get("expand_timesteps")


def is_inpainting(cls: str, channels: int, latent_channels: int) -> bool:
    """Whether a denoiser takes the latents of a picture and a mask beside its own."""
    return cls == UNET and latent_channels > 0 and channels == 2 * latent_channels + 1


def channels_in_file(tensors: Tensors, prefix: str) -> int:
    """Returns the input channels of the denoiser in a single file, 0 when its first layer does not tell."""
    shapes = (tensors[prefix + layer].shape for layer in INPUT_LAYERS if prefix + layer in tensors)
    return next((shape[1] for shape in shapes if len(shape) > 1), 0)


def latent_channels(configs: Configs) -> int:
    vae = configs.get("vae", {})
    return positive_int(vae, "latent_channels") or positive_int(vae, "z_dim")


def check_fits_base(tensors: Tensors, prefix: str, name: str, cls: str, config: Config) -> None:
    """Compares the denoiser in a single file with the config of its base. Raises `BadModel` where they disagree.

    prefix: that of the denoiser's tensors. name, cls, config: the denoiser of the base.
    """
    channels = positive_int(config, "in_channels")
    layer = next((tensors[prefix + layer] for layer in INPUT_LAYERS if prefix + layer in tensors), None)
    own = channels_in_file(tensors, prefix)
    if own and channels and own != channels and not is_inpainting(cls, own, channels):
        raise BadModel(_explanation(name, own, channels, "that of its base takes"))
    width = _text_width(tensors, prefix)
    expected = config.get("cross_attention_dim")
    if cls == UNET and width and type(expected) is int and width != expected:
        raise BadModel(f"its U-Net reads prompts that are {width} wide, that of its base {expected}: another family")
    inner = positive_int(config, "num_attention_heads") * positive_int(config, "attention_head_dim")
    if layer is not None and name == "transformer" and inner and layer.shape[0] != inner:
        raise BadModel(f"its transformer is {layer.shape[0]} wide, that of its base {inner}: another size")


def _text_width(tensors: Tensors, prefix: str) -> int:
    for name, tensor in tensors.items():
        if name.startswith(prefix) and name.endswith(CROSS_ATTENTION) and len(tensor.shape) == 2:
            return tensor.shape[1]
    return 0


def _explanation(name: str, channels: int, expected: int, of: str = "one for prompts alone takes") -> str:
    part = "U-Net" if name == "unet" else "transformer"
    extra = channels - expected
    mask_in_pixels = 5 * expected  # Flux Fill: the latents of a picture, and a mask of 8x8 pixels per cell
    if extra in (expected + 1, mask_in_pixels):
        kind = "an inpainting or image-to-video checkpoint" if name == "transformer" else "an inpainting checkpoint"
    elif extra == expected:
        kind = "a checkpoint that edits, or follows, a picture"
    elif extra == expected + 4:  # Wan: the latents of a picture, and a mask of 4 frames per latent frame
        kind = "an image-to-video checkpoint"
    elif extra == 1:
        kind = "a depth-to-image checkpoint"
    else:
        kind = "a checkpoint of another kind"
    return f"is {kind}: its {part} takes {channels} channels, {of} {expected}"
