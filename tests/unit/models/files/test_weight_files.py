"""The weight files of a folder: which ones a library opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import BadModel
from models.files.safety import check_folder
from models.files.weight_files import variant, weight_files
from tests.support.checkpoints import ONE_F16, stable_diffusion_folder, write_json


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    for part in "12":
        (tmp_path / f"model-{part}.safetensors").write_bytes(ONE_F16)
    (tmp_path / "consolidated.safetensors").write_bytes(ONE_F16)  # the same weights again, as in some repositories
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}
    write_json(tmp_path / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})

    assert [path.name for path in weight_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a\\b.safetensors", "model.bin"])
def test_an_index_may_not_point_outside_its_folder(tmp_path: Path, shard: str) -> None:
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"a": shard}})

    with pytest.raises(BadModel, match="outside its folder"):
        weight_files(tmp_path)


def test_a_variant_is_used_only_where_the_plain_file_is_missing(tmp_path: Path) -> None:
    folder = stable_diffusion_folder(tmp_path / "model")
    parts = [folder / "unet", folder / "vae"]
    assert variant(parts) is None

    plain = folder / "unet/diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))

    assert variant(parts) == "fp16"
    check_folder(folder)
