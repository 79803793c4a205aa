"""IP-Adapters, VAEs, words and upscalers are known from their files, and become entries of the catalogue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models.adapters.adapter_files import adapter_bytes, adapter_files
from models.adapters.upscaler_file import SCALE
from models.errors import BadModel
from models.spec import ModelSpec
from pipelines.diffusion_interface import UPSCALER
from tests.support.catalogues import open_catalogue
from tests.support.tiny_upscaler import save_upscaler

IP_ADAPTER = {
    "image_proj.proj.weight": (128, 16),
    "image_proj.norm.weight": (32,),
    "ip_adapter.1.to_k_ip.weight": (16, 32),
}


def save(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    return path


def only_spec(folder: Path) -> ModelSpec:
    catalogue = open_catalogue(folder)
    assert not catalogue.refused, catalogue.refused
    (spec,) = catalogue.specs()
    return spec


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        (IP_ADAPTER, "ip_adapter"),
        ({"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": (8, 8),
          "ip_adapter_proj_model.proj.weight": (8, 8)}, "ip_adapter"),
        ({"decoder.conv_in.weight": (8, 4, 3, 3), "encoder.conv_in.weight": (8, 3, 3, 3)}, "vae"),
        ({"first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
          "first_stage_model.quant_conv.weight": (8, 8, 1, 1)}, "vae"),
        ({"emb_params": (4, 768)}, "textual_inversion"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "textual_inversion"),
        ({"<cat-toy>": (768,)}, "textual_inversion"),
    ],
)  # fmt: skip
def test_kind_of_a_single_file_is_told_by_its_tensors(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], kind: str
) -> None:
    found = adapter_files(save(tmp_path / "file.safetensors", shapes))
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize(
    "shapes",
    [
        {"decoder.conv_in.weight": (8, 4, 3, 3), "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3)},
        {"emb_params": (4000, 768)},
        {"weight": (768,)},
        {"lora_unet_down.lora_up.weight": (8, 8)},
    ],
)
def test_file_of_something_else_is_no_adapter(tmp_path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    assert adapter_files(save(tmp_path / "file.safetensors", shapes)) is None


def test_face_id_is_refused_because_it_needs_more_than_a_picture(tmp_path: Path) -> None:
    shapes = {"image_proj.proj.0.weight": (8, 8), "image_proj.norm.weight": (8,), "ip_adapter.1.to_k_ip.weight": (8, 8)}
    with pytest.raises(BadModel, match="InsightFace"):
        adapter_files(save(tmp_path / "file.safetensors", shapes))


def test_ip_adapter_with_its_encoder_is_one_entry_with_the_bytes_of_both(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "face"
    save(folder / "ip-adapter_sd15.safetensors", IP_ADAPTER)
    save(folder / "image_encoder" / "model.safetensors", {"vision_model.weight": (10, 10)})
    (folder / "image_encoder" / "config.json").write_text(
        json.dumps({"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"})
    )

    spec = only_spec(tmp_path)

    assert (spec.name, spec.type, spec.adapter) == ("face", "adapter", "ip_adapter")
    assert spec.weight_bytes == 4 * (128 * 16 + 32 + 16 * 32 + 100)
    assert adapter_bytes(folder, 2) * 2 == spec.weight_bytes


def real_esrgan(scale_of_input: int) -> dict[str, tuple[int, ...]]:
    """In the layout of Real-ESRGAN, whose x2 and x1 models fold the picture before the first layer."""
    names = {"body.0.rdb1.conv1": (32, 8), "conv_body": (8, 8), "conv_up1": (8, 8), "conv_up2": (8, 8),
             "conv_hr": (8, 8), "conv_first": (8, 3 * scale_of_input**2), "conv_last": (3, 8)}  # fmt: skip
    return {f"{name}.weight": (*shape, 3, 3) for name, shape in names.items()}


@pytest.mark.parametrize(
    ("shapes", "scale"),
    [
        (real_esrgan(1), 4),
        (real_esrgan(2), 2),
        ({f"params.{name}": shape for name, shape in real_esrgan(4).items()}, 1),
        ({"body.0.weight": (8, 3, 3, 3), "body.1.weight": (8,), "body.2.weight": (27, 8, 3, 3)}, 3),
        ({"block_1.c1_r.sk.weight": (8, 8, 3, 3), "conv_1.sk.weight": (8, 3, 3, 3),
          "upsampler.0.weight": (12, 8, 3, 3)}, 2),
    ],
)  # fmt: skip
def test_factor_of_an_upscaler_is_read_from_its_tensors(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], scale: int
) -> None:
    found = adapter_files(save(tmp_path / "file.safetensors", shapes))
    assert found is not None
    assert (found.kind, found.config[SCALE]) == ("upscaler", scale)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_upscaler_is_an_image_model_that_needs_a_picture(tmp_path: Path, scale: int) -> None:
    save_upscaler(tmp_path / "models" / "sharp.safetensors", scale=scale)

    spec = only_spec(tmp_path)

    assert (spec.type, spec.adapter, spec.scale, spec.pipeline) == ("image", "upscaler", scale, UPSCALER)
    assert [task.required for task in spec.tasks] == [frozenset({"image"}), frozenset({"video"})]
    assert open_catalogue(tmp_path).default_for("image") == "sharp", "there is no other"


def entry(tmp_path: Path, **values: Any) -> str:
    save(tmp_path / "odd.safetensors", {"some.net.weight": (8, 3, 3, 3)})
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["[models.odd]", 'source = "odd.safetensors"', *lines])


def test_upscaler_of_another_architecture_is_added_by_an_entry_with_its_factor(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(entry(tmp_path, type="adapter", scale=2))
    spec = only_spec(tmp_path)
    assert (spec.adapter, spec.scale) == ("upscaler", 2)


def test_entry_of_an_upscaler_without_a_factor_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(entry(tmp_path, type="adapter"))
    (refused,) = open_catalogue(tmp_path).refused
    assert "set scale in its entry" in refused.reason
