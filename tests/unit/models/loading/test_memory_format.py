"""A VAE gets its channels last where that is measured to be faster, and never when the trial fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.families.vaes import small_vae, wan_vae
from models.loading import memory_format
from models.loading.measured import Measured
from models.loading.memory_format import choose_memory_format, lay_out
from pipelines.batching.merging import difference
from pipelines.batching.proof import TOLERANCE
from pipelines.device import to_host


@pytest.fixture(autouse=True)
def small_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_format, "LARGEST_SIDE", 4)


def times(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    found: Iterator[float] = iter(seconds)

    def next_time(work: Callable[[], object], device: str, runs: int) -> float:
        return next(found)

    monkeypatch.setattr(memory_format, "shortest_seconds", next_time)


def weight_of(vae: Any) -> torch.Tensor:
    return next(
        part.weight
        for part in vae.modules()
        if isinstance(part, torch.nn.Conv2d | torch.nn.Conv3d) and part.kernel_size[0] > 1 and part.in_channels > 1
    )


def is_channels_last(vae: Any) -> bool:
    weight = weight_of(vae)
    last = torch.channels_last_3d if weight.dim() == 5 else torch.channels_last
    return bool(weight.is_contiguous(memory_format=last))


@pytest.mark.parametrize("build", [small_vae, wan_vae])
@pytest.mark.parametrize(("usual_s", "last_s", "chosen"), [(1.0, 0.8, True), (1.0, 0.99, False), (1.0, 2.0, False)])
def test_the_channels_go_last_when_that_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, usual_s: float, last_s: float, chosen: bool, build: Callable[[], Any]
) -> None:
    times(monkeypatch, usual_s, last_s)
    vae = build()
    found = choose_memory_format(vae, "cpu")

    assert found is not None
    assert found.channels_last is chosen
    assert is_channels_last(vae) is chosen


def test_what_was_chosen_is_known_to_the_next_process_for_vaes_of_the_same_shape(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    times(monkeypatch, 1.0, 0.5, 1.0, 2.0)
    file = tmp_path / "cache" / "measured.json"
    choose_memory_format(small_vae(), "cpu", Measured(file))
    vae, other = small_vae(), small_vae(stages=(8, 8))

    found = choose_memory_format(vae, "cpu", Measured(file))
    assert found is not None
    assert (found.speed, is_channels_last(vae)) == (2.0, True), "not measured again"
    choose_memory_format(other, "cpu", Measured(file))
    assert not is_channels_last(other), "another shape is measured"


def test_the_channels_last_change_pixels_by_rounding_only() -> None:
    for vae, latents in ((small_vae(), torch.randn(1, 4, 8, 8)), (wan_vae(), torch.randn(1, 16, 2, 8, 8))):
        with torch.no_grad():
            usual = vae.decode(latents, return_dict=False)[0]
            lay_out(vae, channels_last=True)
            last = vae.decode(latents, return_dict=False)[0]
        assert difference(usual, last) <= TOLERANCE[torch.float32]


def test_weights_keep_their_layout_in_host_memory() -> None:
    vae = small_vae()
    lay_out(vae, channels_last=True)
    assert to_host(weight_of(vae).data).stride() == weight_of(vae).stride()


def test_laid_out_back_and_forth_the_weights_are_as_they_were() -> None:
    vae = wan_vae()
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in vae.named_parameters()}
    lay_out(vae, channels_last=True)
    lay_out(vae, channels_last=False)

    for name, tensor in vae.named_parameters():
        assert torch.equal(tensor, before[name][0])
        assert tensor.is_contiguous()


def test_a_format_that_changes_the_picture_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, 1.0, 0.1)
    monkeypatch.setattr(memory_format, "difference", lambda one, other: 1.0)
    vae = small_vae()
    found = choose_memory_format(vae, "cpu")

    assert found is not None
    assert (found.channels_last, found.distance, is_channels_last(vae)) == (False, 1.0, False)


def test_a_trial_without_memory_leaves_the_vae_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    vae = small_vae()
    monkeypatch.setattr(vae, "decode", run_out)

    assert choose_memory_format(vae, "cpu") is None
    assert not is_channels_last(vae)


def test_what_is_no_vae_has_no_choice() -> None:
    assert choose_memory_format(None, "cpu") is None
    assert choose_memory_format(torch.nn.Linear(2, 2), "cpu") is None
