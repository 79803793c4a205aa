"""A denoiser that takes more than latents is told apart from its text-to-image relative, and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.checkpoint.denoiser_input import check_fits_base, check_input_channels
from models.errors import BadModel
from models.files.safetensors_header import Tensor
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import safetensors_bytes, stable_diffusion_folder

UNET, FLUX, WAN = "UNet2DConditionModel", "FluxTransformer2DModel", "WanTransformer3DModel"


@pytest.mark.parametrize(
    ("cls", "channels", "latents", "words"),
    [
        (UNET, 9, 4, "is an inpainting checkpoint: its U-Net takes 9 channels, one for prompts alone takes 4"),
        (UNET, 8, 4, "is a checkpoint that edits, or follows, a picture"),
        (UNET, 5, 4, "is a depth-to-image checkpoint"),
        (UNET, 7, 4, "is a checkpoint of another kind: its U-Net takes 7 channels"),
        (FLUX, 384, 16, "is an inpainting or image-to-video checkpoint: its transformer takes 384 channels"),
        (FLUX, 128, 16, "is a checkpoint that edits, or follows, a picture"),
        (WAN, 36, 16, "is an image-to-video checkpoint"),
        ("HunyuanVideoTransformer3DModel", 33, 16, "is an inpainting or image-to-video checkpoint"),
        ("CogVideoXTransformer3DModel", 32, 16, "is a checkpoint that edits, or follows, a picture"),
    ],
)
def test_a_denoiser_with_more_channels_is_refused_with_what_it_is_for(
    cls: str, channels: int, latents: int, words: str
) -> None:
    name = "unet" if cls == UNET else "transformer"
    configs = {name: {"in_channels": channels}, "vae": {"latent_channels": latents}}

    with pytest.raises(BadModel) as refused:
        check_input_channels("StableDiffusionPipeline", {name: cls}, configs)

    assert words in refused.value.message


@pytest.mark.parametrize(
    ("cls", "channels", "vae"),
    [
        (UNET, 4, {"latent_channels": 4}),
        (FLUX, 64, {"latent_channels": 16}),
        (WAN, 48, {"z_dim": 48}),
        ("HunyuanVideo15Transformer3DModel", 65, {"latent_channels": 32}),  # takes a mask from its own pipeline
        (UNET, 3, {}),  # works on pixels
    ],
)
def test_a_denoiser_that_takes_latents_alone_passes(cls: str, channels: int, vae: dict[str, object]) -> None:
    for name in ("unet", "transformer"):
        check_input_channels("FluxPipeline", {name: cls}, {name: {"in_channels": channels}, "vae": vae})


@pytest.mark.parametrize(
    ("pipeline", "cls", "channels", "latents"),
    [
        ("StableDiffusionInpaintPipeline", UNET, 9, 4),
        ("StableDiffusionInpaintPipeline", UNET, 4, 4),
        ("StableDiffusionInstructPix2PixPipeline", UNET, 8, 4),
        ("FluxFillPipeline", FLUX, 384, 16),
        ("FluxControlInpaintPipeline", FLUX, 128, 16),
        ("WanImageToVideoPipeline", WAN, 36, 16),
    ],
)
def test_a_denoiser_with_more_channels_passes_under_the_class_that_fills_them(
    pipeline: str, cls: str, channels: int, latents: int
) -> None:
    name = "unet" if cls == UNET else "transformer"

    check_input_channels(pipeline, {name: cls}, {name: {"in_channels": channels}, "vae": {"latent_channels": latents}})


UNET_CONFIG = {"in_channels": 4, "cross_attention_dim": 768}
FLUX_CONFIG = {"in_channels": 64, "num_attention_heads": 24, "attention_head_dim": 128}


@pytest.mark.parametrize(
    ("tensors", "cls", "config", "words"),
    [
        ({"input_blocks.0.0.weight": (320, 8, 3, 3)}, UNET, UNET_CONFIG,
         "its U-Net takes 8 channels, that of its base takes 4"),
        ({"input_blocks.1.1.attn2.to_k.weight": (320, 2048)}, UNET, UNET_CONFIG, "2048 wide, that of its base 768"),
        ({"img_in.weight": (3072, 384)}, FLUX, FLUX_CONFIG, "is an inpainting or image-to-video checkpoint"),
        ({"img_in.weight": (4096, 64)}, FLUX, FLUX_CONFIG, "its transformer is 4096 wide, that of its base 3072"),
    ],
)  # fmt: skip
def test_a_single_file_of_another_size_than_its_base_is_refused(
    tensors: dict[str, tuple[int, ...]], cls: str, config: dict[str, object], words: str
) -> None:
    name = "unet" if cls == UNET else "transformer"
    prefixed = {f"model.diffusion_model.{key}": Tensor("F16", shape) for key, shape in tensors.items()}

    with pytest.raises(BadModel) as refused:
        check_fits_base(prefixed, "model.diffusion_model.", name, cls, config)

    assert words in refused.value.message


def test_a_checkpoint_that_edits_is_refused_when_it_is_listed_as_a_folder_and_as_a_file(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "base", unet=["diffusers", UNET])
    shape = [320, 8, 3, 3]
    name = "model.diffusion_model.input_blocks.0.0.weight"
    file = tmp_path / "edit.safetensors"
    file.write_bytes(safetensors_bytes({name: ("F16", shape, 2 * 320 * 8 * 9)}))
    toml = '[models.file]\nsource = "edit.safetensors"\nload.base = "base"\n[models.folder]\nsource = "base"\n'
    config = folder / "unet/config.json"

    by_file = {refused.name: refused.reason for refused in open_catalogue(tmp_path, toml).refused}
    config.write_text(config.read_text().replace('"in_channels": 4', '"in_channels": 8'))
    by_folder = {refused.name: refused.reason for refused in open_catalogue(tmp_path, toml).refused}

    assert "is a checkpoint that edits, or follows, a picture" in by_file["file"]
    assert "is a checkpoint that edits, or follows, a picture" in by_folder["folder"]
