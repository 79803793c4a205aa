"""A single file is recognized by its tensor names, and a file that lacks something is refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.catalogues import open_catalogue


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
