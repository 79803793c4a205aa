"""Upscalers: pictures and clips made larger tile by tile, by networks that spandrel opens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pipelines.tile_grid import size_before, tiles_of
from pipelines.upscaling.joined_tiles import JoinedTiles
from pipelines.upscaling.pipeline import UpscalerPipeline, enlarge
from pipelines.upscaling.upscaler import BadUpscaler, open_upscaler
from tests.support.tiny_upscaler import save_upscaler

FLOAT32 = torch.float32


class Bar:
    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, n: int = 1) -> None:
        self.done += n


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def upscaler_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_upscaler(tmp_path_factory.mktemp("upscaler") / "tiny.safetensors")


@pytest.fixture(scope="module")
def pipeline(upscaler_file: Path) -> UpscalerPipeline:
    found = UpscalerPipeline(open_upscaler(upscaler_file, FLOAT32, "cpu"))
    found.set_progress_bar_config(disable=True)
    return found


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (100, 130), (63, 200)])
def test_tiles_cover_every_pixel_and_have_one_size(size: tuple[int, int]) -> None:
    width, height = size
    covered = torch.zeros(1, height, width)
    tiles = tiles_of(width, height, side=64, overlap=8)
    for tile in tiles:
        tile.of(covered).add_(1)
    assert covered.min() >= 1
    assert len({(tile.width, tile.height) for tile in tiles}) == 1
    assert all(tile.top + tile.height <= height and tile.left + tile.width <= width for tile in tiles)


@pytest.mark.parametrize(
    ("own", "wanted", "fit", "before"),
    [
        ((300, 200), (1200, 800), "crop", (300, 200)),
        ((301, 199), (1204, 796), "pad", (301, 199)),
        ((300, 200), (800, 800), "crop", (200, 200)),
        ((300, 200), (800, 800), "pad", (300, 300)),
        ((300, 200), (800, 800), "stretch", (300, 200)),
        ((1, 5000), (1, 1), "crop", (1, 1)),
    ],
)
def test_picture_is_cut_or_filled_before_it_is_enlarged(
    own: tuple[int, int], wanted: tuple[int, int], fit: Any, before: tuple[int, int]
) -> None:
    assert size_before(own, wanted, fit) == before


def test_joined_tiles_of_a_picture_are_the_picture() -> None:
    whole = torch.rand(3, 90, 150, generator=torch.Generator().manual_seed(0))
    joined = JoinedTiles(150, 90, overlap=8)
    for tile in tiles_of(150, 90, side=64, overlap=8):
        joined.add(tile, tile.of(whole))
    assert torch.allclose(joined.picture(), whole, atol=1e-6)


def test_picture_of_one_tile_is_what_spandrel_makes_of_it(pipeline: UpscalerPipeline, upscaler_file: Path) -> None:
    from spandrel import ModelLoader

    image = picture(40, 24)
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]
    expected = ModelLoader("cpu").load_from_file(upscaler_file)(pixels)[0].permute(1, 2, 0).numpy()

    (made,) = pipeline(image=image).images

    assert made.shape == (96, 160, 3)
    assert np.abs(made - expected).max() < 1e-5


def test_large_picture_has_no_seams(pipeline: UpscalerPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.asarray(picture(100, 60), dtype=np.float32)[None] / 255
    whole = enlarge(frames, pipeline.upscaler, Bar)
    cut = tiles_of(100, 60, side=48, overlap=32)
    monkeypatch.setattr("pipelines.upscaling.pipeline.tiles_of", lambda *_: cut)

    assert len(cut) > 4
    assert np.abs(enlarge(frames, pipeline.upscaler, Bar) - whole).max() < 1e-3


def test_each_tile_of_each_frame_is_a_step_of_progress(pipeline: UpscalerPipeline) -> None:
    bars: list[Bar] = []

    def bar(total: int) -> Bar:
        bars.append(Bar(total))
        return bars[-1]

    enlarge(np.zeros((2, 8, 300, 3), np.float32), pipeline.upscaler, bar)

    assert [(each.total, each.done) for each in bars] == [(4, 4)]


def test_clip_keeps_its_frames_and_gets_the_size_that_was_asked_for(pipeline: UpscalerPipeline) -> None:
    ((first, *rest),) = pipeline(video=[picture(16, 12, i) for i in range(3)], width=40, height=30).images

    assert first.shape == (30, 40, 3)
    assert len(rest) == 2
    assert not np.array_equal(first, rest[0])
    assert 0 <= first.min() <= first.max() <= 1


def test_file_with_the_prefix_of_a_trainer_is_opened(tmp_path: Path) -> None:
    path = save_upscaler(tmp_path / "prefixed.safetensors", prefix="params_ema.")

    assert open_upscaler(path, FLOAT32, "cpu").scale == 4


@pytest.mark.parametrize(
    ("name", "tensors", "reason"),
    [
        ("a.safetensors", {"some.weight": torch.zeros(2, 2)}, "no architecture"),
        ("b.safetensors", {"conv_first.weight": torch.zeros(8, 3, 3, 3), "body.0.rdb1.conv1.weight": torch.zeros(1),
                           "conv_body.weight": torch.zeros(1), "conv_last.weight": torch.zeros(1)}, "do not fit"),
        ("c.pth", {"some.weight": torch.zeros(2)}, "only .safetensors"),
    ],
)  # fmt: skip
def test_file_that_is_no_upscaler_is_refused_with_the_reason(
    tmp_path: Path, name: str, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    save_file(tensors, tmp_path / name)
    with pytest.raises(BadUpscaler, match=reason):
        open_upscaler(tmp_path / name, FLOAT32, "cpu")


def test_opening_an_upscaler_leaves_no_stand_in_modules(upscaler_file: Path) -> None:
    open_upscaler(upscaler_file, FLOAT32, "cpu")
    assert "torchvision" not in sys.modules or hasattr(sys.modules["torchvision"], "__file__")
    assert not any(name.endswith((".LaMa", ".RestoreFormer")) for name in sys.modules if "architectures" in name)


def test_forward_leaves_torchs_inference_mode_off(pipeline: UpscalerPipeline) -> None:
    seen: list[bool] = []
    layer: Any = next(module for module in pipeline.upscaler.modules() if isinstance(module, nn.Conv2d))
    hook = layer.register_forward_pre_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    pipeline(image=picture(8, 8))
    hook.remove()
    assert seen == [False]
