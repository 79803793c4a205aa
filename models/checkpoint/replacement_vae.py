"""Checks the VAE that `load.vae` names against the one that it replaces, before anything is loaded. No torch.

A VAE of another family has other latents: the picture would be noise, or the load would fail.
"""

from __future__ import annotations

from pathlib import Path

from models.checkpoint.component_configs import Config, positive_int
from models.checkpoint.model_source import single_file_classes
from models.checkpoint.single_file import VAE_PREFIXES
from models.checkpoint.weight_scales import check_is_plain, weight_scales
from models.errors import BadModel
from models.files.json_files import read_config
from models.files.weight_files import weight_files
from models.files.weight_header import tensors_of

# The first layer of a decoder, whose second dimension is the number of latent channels: of Stable Diffusion and its
# relatives (and of every VAE of diffusers), and of Wan and Qwen-Image in their original layout.
DECODER_INPUTS = ("decoder.conv_in.weight", "decoder.conv_in.conv.weight", "decoder.conv1.weight")
LATENT_SCALES = {"scaling_factor": 0.18215, "shift_factor": None}  # and diffusers' defaults of AutoencoderKL


def check_replacement_vae(path: Path, cls: str, replaced: Config, what: str = "load.vae") -> None:
    """cls, replaced: the class and the config of the checkpoint's own VAE. what: the VAE, for messages.

    Raises `BadModel` with the difference.
    """
    expected = positive_int(replaced, "latent_channels") or positive_int(replaced, "z_dim")
    if path.is_file():
        if path.suffix != ".safetensors":
            raise BadModel(f"{what} must be a .safetensors file or a folder")
        if cls not in single_file_classes():
            raise BadModel(f"{what}: a {cls} is read from a folder, not from a single file")
        weight_scales(tensors_of(path))
        if not any("decoder." in name for name in tensors_of(path)):
            raise BadModel(f"{what}: {path.name} holds no decoder")
        channels = _latent_channels(path)
    else:
        if not (path / "config.json").is_file():
            raise BadModel(f"{what}: its folder has no config.json")
        config = read_config(path / "config.json")
        if config.get("_class_name", cls) != cls:
            raise BadModel(f"{what} is of the class {str(config['_class_name'])[:80]}, this model's VAE of {cls}")
        for file in weight_files(path):
            check_is_plain(what, tensors_of(file))
        _check_scales(config, replaced, cls, what)
        channels = positive_int(config, "latent_channels") or positive_int(config, "z_dim")
    if channels and expected and channels != expected:
        raise BadModel(f"{what} is of another family: its latents have {channels} channels, this model's {expected}")


def _latent_channels(file: Path) -> int:
    """Returns the channels that the decoder takes, 0 where its first layer is not known by name."""
    tensors = tensors_of(file)
    for prefix in (*VAE_PREFIXES, ""):
        for name in DECODER_INPUTS:
            if (layer := tensors.get(prefix + name)) is not None and len(layer.shape) > 1:
                return layer.shape[1]
    return 0


def _check_scales(config: Config, replaced: Config, cls: str, what: str) -> None:
    if cls != "AutoencoderKL":
        return
    for key, default in LATENT_SCALES.items():
        own, expected = config.get(key, default), replaced.get(key, default)
        if own != expected:
            raise BadModel(f"{what} is of another family: its {key} is {own}, this model's {expected}")
