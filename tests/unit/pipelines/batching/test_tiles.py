"""A VAE decodes in tiles that are smaller than the picture, and is afterwards as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.families import vaes
from pipelines.batching.tiles import in_tiles


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        pixels: torch.Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


def calls_of_decoder(vae: Any, run: Callable[[], object]) -> int:
    """How often the decoder runs."""
    shapes: list[Any] = []
    hook = vae.decoder.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    run()
    hook.remove()
    return len(shapes)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (vaes.small_vae, (1, 4, 16, 16)),  # as large as one of its tiles
        (vaes.wan_vae, (1, 16, 1, 16, 24)),
        (vaes.qwen_image_vae, (1, 4, 1, 40, 24)),
    ],
)
def test_a_picture_as_large_as_a_tile_is_cut_too(build: Callable[[], Any], shape: tuple[int, ...]) -> None:
    vae, latents = build(), torch.randn(shape)
    before = {name: value for name, value in vars(vae).items() if name.startswith("tile_")}
    whole = decode(vae, latents)

    with in_tiles(vae, latents):
        n_tiles = calls_of_decoder(vae, lambda: decode(vae, latents))
        assert decode(vae, latents).shape == whole.shape
    with in_tiles(vae, latents, halvings=1):
        assert decode(vae, latents).shape == whole.shape
        assert calls_of_decoder(vae, lambda: decode(vae, latents)) > n_tiles > 1
    assert {name: getattr(vae, name) for name in before} == before
    assert torch.equal(decode(vae, latents), whole)


def test_sides_that_are_no_whole_number_of_latents_are_not_halved() -> None:
    vae = vaes.wan_vae()
    vae.tile_sample_min_height = 248  # 31 latents
    with in_tiles(vae, torch.zeros(1, 16, 1, 8, 8)):
        assert vae.tile_sample_min_width == 256


def test_a_vae_is_whole_again_after_an_error() -> None:
    vae = vaes.small_vae()
    with pytest.raises(torch.OutOfMemoryError), in_tiles(vae, torch.zeros(1, 4, 16, 16)):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert not vae.use_tiling
    assert vae.tile_latent_min_size == 16
