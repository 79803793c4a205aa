"""A single file is recognized by its tensor names, and a file that lacks something is refused with what to do."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES
from safetensors.torch import save_file

from models.checkpoint.read_single_file import GGUF_TYPES
from models.files.json_files import read_config
from tests.support.catalogues import open_catalogue
from tests.support.checkpoints import (
    ONE_F16,
    diffusion_folder,
    gguf_bytes,
    gguf_string,
    gguf_tensor,
    safetensors_bytes,
    stable_diffusion_folder,
    write_json,
)


def test_a_file_of_an_unknown_family_is_refused_with_a_request_for_a_base(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    save_file({"strange.weight": torch.zeros(2)}, tmp_path / "models/strange.safetensors")

    (refused,) = open_catalogue(tmp_path).refused

    assert "name a pipeline folder or hub id as its base" in refused.reason


def test_a_file_of_sd_15_is_recognized_by_its_tensors_and_refused_with_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    names = (
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        "first_stage_model.encoder.conv_in.weight",
        "model.diffusion_model.input_blocks.0.0.weight",
    )
    save_file({name: torch.zeros(2) for name in names}, tmp_path / "models/civitai.safetensors")

    (refused,) = open_catalogue(tmp_path).refused

    assert "agentname pull wheel:open-clip-torch==3.3.0" in refused.reason


DENOISER = "model.diffusion_model."
SD3, SD35_MEDIUM, SD35_LARGE = (
    "joint_blocks.0.context_block.adaLN_modulation.1.bias",
    "joint_blocks.0.x_block.attn2.qkv.weight",
    "joint_blocks.37.x_block.mlp.fc1.weight",
)
FLUX, GUIDED = "double_blocks.0.img_attn.norm.key_norm.scale", "guidance_in.in_layer.bias"
CLIPS = ("text_encoders.clip_l.transformer.text_model.final_layer_norm.bias", "first_stage_model.encoder.conv_in.bias")
WHOLE_T5 = ("text_encoders.t5xxl.transformer.shared.weight", "vae.encoder.conv_in.bias")


FROM_BASE = "those come from a base; try: agentname pull"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((SD3, *CLIPS), "agentname pull wheel:open-clip-torch==3.3.0"),
        ((SD3, *CLIPS, *WHOLE_T5), "carries all weights, but configs and vocabularies come from a base; "),
        ((SD3,), f"carries no text encoder and no VAE: {FROM_BASE} stabilityai/stable-diffusion-3-m"),
        ((SD3, SD35_MEDIUM), "agentname pull stabilityai/stable-diffusion-3.5-medium,"),
        ((SD3, SD35_LARGE), "agentname pull stabilityai/stable-diffusion-3.5-large,"),
        ((FLUX, GUIDED), f"carries no text encoder and no VAE: {FROM_BASE} black-forest-labs/FLUX.1-dev,"),
        ((FLUX,), "agentname pull black-forest-labs/FLUX.1-schnell, or name a folder of its family as load.base"),
        ((FLUX, GUIDED, "vae.encoder.conv_in.bias"), "carries no text encoder: those come from"),
        (
            (FLUX, *WHOLE_T5),
            (
                "carries all weights, but configs and vocabularies come from a base; "
                "try: agentname pull black-forest-labs/FLUX.1-s"
            ),
        ),
    ],
)
def test_a_file_is_refused_with_what_it_lacks_and_where_that_comes_from(
    tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    (tmp_path / "models").mkdir()
    prefixed = [name if name.startswith(("text_", "vae.", "first_")) else DENOISER + name for name in names]
    save_file({name: torch.zeros(2) for name in prefixed}, tmp_path / "models/civitai.safetensors")

    (refused,) = open_catalogue(tmp_path).refused

    assert words in refused.reason


@pytest.mark.parametrize(
    ("name", "shape", "repo"),
    [
        ("cond_stage_model.model.token_embedding.weight", (2,), "stabilityai/stable-diffusion-2-1"),
        ("double_stream_modulation_img.lin.weight", (18432, 1), "black-forest-labs/FLUX.2-klein-4B"),
        ("double_stream_modulation_img.lin.weight", (36864, 1), "black-forest-labs/FLUX.2-dev"),
        ("patch_embedding.weight", (1536, 1), "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
        ("patch_embedding.weight", (3072, 1), "Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
        ("head.modulation", (1,), "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
        ("vace_blocks.0.after_proj.bias", (1536,), "Wan-AI/Wan2.1-VACE-1.3B-diffusers"),
        ("txt_norm.weight", (2,), "Qwen/Qwen-Image,"),
        ("patchify_proj.weight", (2,), "Lightricks/LTX-Video"),
        ("layers.0.adaLN_modulation.0.weight", (2,), "Tongyi-MAI/Z-Image-Turbo"),
        ("cap_embedder.0.weight", (2,), "Alpha-VLLM/Lumina-Image-2.0"),
        ("double_stream_blocks.0.block.adaLN_modulation.1.bias", (2,), "HiDream-ai/HiDream-I1-Dev"),
        ("cond_seq_linear.weight", (2,), "fal/AuraFlow-v0.3"),
    ],
)
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_each_family_has_a_base_of_its_size(
    tmp_path: Path, prefix: str, name: str, shape: tuple[int, ...], repo: str
) -> None:
    assert f"agentname pull {repo}" in reason_for(tmp_path, {prefix + name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias", "is an SDXL refiner"),
        ("control_model.time_embed.0.weight", "is a ControlNet"),
        ("net.x_embedder.proj.1.weight", "is a Cosmos model"),
        ("lora_unet_down_blocks_0.lora_down.weight", "is a LoRA"),
        ("text_model.embeddings.token_embedding.weight", "is a text encoder"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "is a text encoder"),
        ("model_ema.diffusion_modeltime_embed0weight", "holds its U-Net only as EMA copies"),
    ],
)
def test_a_file_that_is_no_model_by_itself_is_refused_with_what_it_is(tmp_path: Path, name: str, words: str) -> None:
    assert words in reason_for(tmp_path, {name: torch.zeros(2)})


def test_a_gguf_of_a_text_encoder_is_not_taken_for_a_language_model(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    entries = {
        key: struct.pack("<I", 8) + gguf_string(value)
        for key, value in {"general.architecture": "t5encoder", "tokenizer.ggml.model": "t5"}.items()
    }
    (tmp_path / "models/t5.gguf").write_bytes(gguf_bytes(entries=entries, tensors=[gguf_tensor()]))

    (refused,) = open_catalogue(tmp_path).refused

    assert refused.reason == "is a text encoder (t5encoder), which a model holds beside its denoiser"


def reason_for(data_dir: Path, tensors: dict[str, torch.Tensor]) -> str:
    """Returns why a file with these tensors is refused."""
    (data_dir / "models").mkdir()
    save_file(tensors, data_dir / "models/civitai.safetensors")
    (refused,) = open_catalogue(data_dir).refused
    return refused.reason


# With a base


def file_with_base(root: Path, tensors: dict[str, tuple[str, list[int], int]], base: Path) -> str:
    """Returns why a single file with this base is refused."""
    (root / "one.safetensors").write_bytes(safetensors_bytes(tensors))
    toml = f'[models.one]\nsource = "one.safetensors"\nload.base = "{base.name}"\n'
    (refused,) = open_catalogue(root, toml).refused
    return refused.reason


def test_a_file_is_refused_with_a_base_of_another_family_or_one_that_lacks_weights(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "base", unet=["diffusers", "UNet2DConditionModel"])
    flux = {"model.diffusion_model.guidance_in.in_layer.bias": ("F16", [2], 4)}
    unet = {"model.diffusion_model.input_blocks.0.0.weight": ("F16", [1, 4, 1, 1], 8)}

    assert file_with_base(tmp_path, flux, folder) == "is a file of FLUX.1, its base is one of SDXL, SD 1.5, SD 2"
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    assert file_with_base(tmp_path, unet, folder) == "neither the file nor its base has the weights of vae"
    pixart = diffusion_folder(
        tmp_path / "pixart",
        "PixArtSigmaPipeline",
        denoiser={},
        vae={},
        transformer=["diffusers", "PixArtTransformer2DModel"],
        text_encoder=[None, None],
        tokenizer=[None, None],
    )
    assert "a PixArtTransformer2DModel, which is read from a folder only" in file_with_base(tmp_path, unet, pixart)


def test_a_gguf_of_a_type_that_diffusers_does_not_unpack_is_refused_by_the_type(tmp_path: Path) -> None:
    stable_diffusion_folder(tmp_path / "base", unet=["diffusers", "UNet2DConditionModel"])
    tensor = gguf_tensor("input_blocks.0.0.bias", (256,), 16)
    (tmp_path / "unet.gguf").write_bytes(gguf_bytes(tensors=[tensor]))
    toml = '[models.one]\nsource = "unet.gguf"\nload.base = "base"\n'

    (refused,) = open_catalogue(tmp_path, toml).refused

    assert refused.reason.startswith("its tensors are IQ2_XXS (input_blocks.0.0.bias), which diffusers does not unpack")


def test_the_types_that_diffusers_unpacks_are_those_of_the_installed_version() -> None:
    names = {kind.name for kind in SUPPORTED_GGUF_QUANT_TYPES}

    assert names | {"F32", "F16"} == GGUF_TYPES


# Another VAE


def stable_diffusion_with_vae(folder: Path) -> None:
    """Writes a Stable Diffusion whose index names the class of its VAE."""
    index = read_config(stable_diffusion_folder(folder) / "model_index.json")
    write_json(folder / "model_index.json", {**index, "vae": ["diffusers", "AutoencoderKL"]})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"latent_channels": 16}, "load.vae is of another family: its latents have 16 channels, this model's 4"),
        ({"scaling_factor": 0.13025}, "its scaling_factor is 0.13025, this model's 0.18215"),
        (
            {"_class_name": "AutoencoderTiny"},
            "load.vae is of the class AutoencoderTiny, this model's VAE of AutoencoderKL",
        ),
    ],
)
def test_a_vae_folder_of_another_family_is_refused(tmp_path: Path, config: dict[str, object], words: str) -> None:
    stable_diffusion_with_vae(tmp_path / "sd")
    write_json(tmp_path / "vae/config.json", {"_class_name": "AutoencoderKL", "latent_channels": 4, **config})
    (tmp_path / "vae/diffusion_pytorch_model.safetensors").write_bytes(ONE_F16)

    (refused,) = open_catalogue(tmp_path, '[models.m]\nsource = "sd"\nload.vae = "./vae"\n').refused

    assert words in refused.reason


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("first_stage_model.decoder.conv_in.weight", "its latents have 16 channels, this model's 4"),
        ("decoder.conv_in.weight", "its latents have 16 channels, this model's 4"),
        ("decoder.conv1.weight", "its latents have 16 channels, this model's 4"),
        ("encoder.conv_in.weight", "vae.safetensors holds no decoder"),
    ],
)
def test_a_vae_file_of_another_family_is_refused(tmp_path: Path, name: str, words: str) -> None:
    stable_diffusion_with_vae(tmp_path / "sd")
    save_file({name: torch.zeros(8, 16, 3, 3)}, tmp_path / "vae.safetensors")

    (refused,) = open_catalogue(tmp_path, '[models.m]\nsource = "sd"\nload.vae = "./vae.safetensors"\n').refused

    assert words in refused.reason


def notes_of(root: Path, names: list[str]) -> tuple[str, ...]:
    """Returns the notes of a file with these tensors, and a Stable Diffusion as its base."""
    stable_diffusion_folder(root / "base", unet=["diffusers", "UNet2DConditionModel"])
    (root / "one.safetensors").write_bytes(safetensors_bytes({name: ("F16", [2], 4) for name in names}))
    return open_catalogue(root, '[models.one]\nsource = "one.safetensors"\nload.base = "base"\n').get("one").notes


def test_ema_copies_beside_the_weights_are_told_and_not_used(tmp_path: Path) -> None:
    notes = notes_of(tmp_path, ["model.diffusion_model.out.2.bias", "model_ema.diffusion_modelout2bias"])

    assert notes == ("The EMA copies in the file (model_ema.…) are not used: the weights beside them are.",)


def test_a_file_of_sd_2_is_said_to_be_sampled_as_its_base(tmp_path: Path) -> None:
    notes = notes_of(tmp_path, ["model.diffusion_model.out.2.bias", "cond_stage_model.model.token_embedding.weight"])

    assert notes == ("Sampled as epsilon, as its base: the file does not say.",)
