"""A VAE gets its channels last where that is measured to be faster, and never when the trial fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.families.vaes import small_vae, wan_vae
from models.loading import memory_format
from models.loading.memory_format import choose_memory_format


def times(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    found: Iterator[float] = iter(seconds)

    def next_time(work: Callable[[], object], device: str) -> float:
        return next(found)

    monkeypatch.setattr(memory_format, "shortest_seconds", next_time)


def is_channels_last(vae: Any) -> bool:
    weight = next(
        part.weight for part in vae.modules() if isinstance(part, torch.nn.Conv2d) and part.kernel_size[0] > 1
    )
    return bool(weight.is_contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize(("usual_s", "last_s", "chosen"), [(1.0, 0.8, True), (1.0, 0.99, False), (1.0, 2.0, False)])
def test_the_channels_go_last_when_that_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, usual_s: float, last_s: float, chosen: bool
) -> None:
    times(monkeypatch, usual_s, last_s)
    vae = small_vae()

    assert choose_memory_format(vae, "cpu") is chosen
    assert is_channels_last(vae) is chosen


def test_a_format_that_changes_the_picture_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, 1.0, 0.1)
    monkeypatch.setattr(memory_format, "difference", lambda one, other: 1.0)
    vae = small_vae()

    assert not choose_memory_format(vae, "cpu")
    assert not is_channels_last(vae)


def test_a_trial_without_memory_leaves_the_vae_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    vae = small_vae()
    monkeypatch.setattr(vae, "decode", run_out)

    assert not choose_memory_format(vae, "cpu")
    assert not is_channels_last(vae)


def test_video_and_a_missing_vae_have_no_choice() -> None:
    assert not choose_memory_format(wan_vae(), "cpu")
    assert not choose_memory_format(None, "cpu")
