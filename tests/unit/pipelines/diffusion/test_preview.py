"""Previews: the colors of known layouts of latents, and that previews change no result."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from pipelines import device
from pipelines.diffusion import preview
from pipelines.diffusion.lane import DiffusionLane
from pipelines.interface import Previewed
from tests.support.lanes.lane_play import ends, play, request
from tests.support.lanes.stock_families import FAMILIES, Family
from tests.support.paths import ROOT

BUILTIN = ROOT / "models" / "builtin"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def each_step(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(preview, "INTERVAL_S", 0.0)


@pytest.fixture(scope="module", params=["sd15", "flux", "wan"])
def each(request: pytest.FixtureRequest) -> tuple[Family, Any]:
    family = FAMILIES[request.param]
    pipeline = family.build()
    pipeline.set_progress_bar_config(disable=True)
    return family, pipeline


def test_previews_at_each_step_do_not_change_the_result(each: tuple[Family, Any]) -> None:
    """Latents of pictures, of pictures in packed patches, and of clips."""
    family, pipeline = each
    lane = DiffusionLane(pipeline, kind=family.kind)
    lane.admit(request(family, "plain"))
    plain = ends(play(lane))["plain"]
    lane.admit(request(family, "shown", preview=True))
    updates = play(lane)
    shown = ends(updates)["shown"]
    colours = [update.colours for update in updates if isinstance(update, Previewed)]
    lane.close()

    assert len(colours) >= 1
    assert {(array.dtype, array.ndim, array.shape[2]) for array in colours} == {(np.dtype(np.uint8), 3, 3)}
    assert np.array_equal(plain.frames, shown.frames)  # type: ignore[union-attr]  # both are rendered


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny-scenes", "tiny-motion"])
def test_colours_of_a_trained_vaes_latents_are_those_of_the_picture(name: str) -> None:
    """A red and a blue half stay red and blue, though the matrix is fitted on other pictures."""
    folder = BUILTIN / name / "vae"
    config = json.loads((folder / "config.json").read_text())
    vae = getattr(diffusers, config["_class_name"]).from_pretrained(folder)
    projection = preview.fit(vae)
    assert projection is not None
    picture = torch.full((1, 3, 128, 128), -0.8)
    picture[:, 0, :, :64] = picture[:, 2, :, 64:] = 0.8
    clips = preview._takes_clips(vae)
    with torch.no_grad():
        encoded = vae.encode(picture[:, :, None] if clips else picture)
    found = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    colours = projection.colours(preview._normalized(vae, found[:, :, 0] if clips else found)[0]).picture()

    left, right = colours[:, : colours.shape[1] // 2].mean((0, 1)), colours[:, colours.shape[1] // 2 :].mean((0, 1))
    assert left[0] - left[2] > 80
    assert right[2] - right[0] > 80


@pytest.mark.parametrize(
    ("shape", "frame"),
    [((2, 4, 6, 8), (4, 6, 8)), ((1, 4, 5, 6, 8), (4, 6, 8)), ((1, 5, 4, 6, 8), (4, 6, 8)), ((1, 12, 16), (4, 6, 8))],
)
def test_known_layouts_give_one_frame(shape: tuple[int, ...], frame: tuple[int, ...]) -> None:
    found = preview.one_frame(torch.zeros(shape), 4, 8 / 6)

    assert found is not None
    assert found.shape == frame


@pytest.mark.parametrize("shape", [(1, 3, 6, 8), (1, 12, 4), (5,)])
def test_a_layout_that_is_not_known_gives_none(shape: tuple[int, ...]) -> None:
    assert preview.one_frame(torch.zeros(shape), 4, 1.0) is None


def test_an_unsuitable_vae_gives_no_previews() -> None:
    assert preview.fit(torch.nn.Linear(2, 2)) is None


def test_a_matrix_that_is_not_fitted_yet_leaves_out_the_first_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        step_index, sigmas = None, None

        def step(self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor) -> tuple[torch.Tensor]:
            return (sample,)

    done = iter([False, True])
    monkeypatch.setattr(preview.Fitting, "is_done", property(lambda self: next(done)))
    shown: list[Any] = []
    previews, own = preview.Previews(), SimpleNamespace(scheduler=Plain())
    previews.fit(FAMILIES["sd15"].build().vae)
    previews.watch(own, 1.0, shown.append)
    counts = []
    for _ in range(3):
        own.scheduler.step(torch.zeros(1, 4, 2, 2), 3, torch.zeros(1, 4, 2, 2))
        counts.append(len(shown))

    assert counts == [0, 1, 2], "no step waits for it"


def test_a_scheduler_with_other_parameters_gives_no_previews_and_works() -> None:
    class Unusual:
        def step(self, logits: torch.Tensor) -> tuple[torch.Tensor]:
            return (logits + 1,)

    shown: list[Any] = []
    scheduler = Unusual()
    preview.watch(scheduler, lambda: preview.Projection(torch.zeros(4, 3), torch.zeros(3)), 1.0, shown.append)
    for _ in range(2):
        assert torch.equal(scheduler.step(torch.zeros(1, 4, 2, 2))[0], torch.ones(1, 4, 2, 2))
    assert shown == []


def test_a_sample_that_is_not_the_third_argument_is_still_found() -> None:
    class FlowMatchLike:
        step_index = 1
        sigmas = torch.tensor([0.5, 0.25])

        def step(self, model_output: Any, earlier: Any, timestep: Any, sample: Any) -> tuple[torch.Tensor]:
            return (sample * torch.nan,)

    shown: list[Any] = []
    scheduler = FlowMatchLike()
    preview.watch(scheduler, lambda: preview.Projection(torch.eye(4, 3), torch.zeros(3)), 1.0, shown.append)
    scheduler.step(torch.zeros(1, 4, 2, 2), None, 3, torch.ones(1, 4, 2, 2))
    assert [int(colours.min()) for colours in shown] == [255]


def test_a_vae_that_is_parked_when_the_first_job_starts_gives_previews_of_later_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "has_own_memory", lambda device_name: True)
    lane = DiffusionLane(FAMILIES["sd15"].build(), kind="image")
    assert lane.park(["vae"]) > 0
    lane.admit(request(FAMILIES["sd15"], "early", preview=True))
    early = play(lane)
    lane.unpark(["vae"])
    lane.admit(request(FAMILIES["sd15"], "late", preview=True))
    late = play(lane)
    lane.close()

    assert not any(isinstance(update, Previewed) for update in early)
    assert any(isinstance(update, Previewed) for update in late)


def test_colours_that_the_device_has_not_computed_yet_are_shown_after_a_later_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Plain:
        def step(self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor) -> tuple[torch.Tensor]:
            return (sample,)

    done = iter([False, False, True])
    monkeypatch.setattr(preview, "INTERVAL_S", 0.0)
    monkeypatch.setattr(preview.PictureCopy, "is_done", property(lambda self: next(done)))
    shown: list[Any] = []
    scheduler = Plain()
    preview.watch(scheduler, lambda: preview.Projection(torch.eye(4, 3), torch.zeros(3)), 1.0, shown.append)
    counts = []
    for value in (1.0, -1.0, 0.0):
        scheduler.step(torch.zeros(1, 4, 2, 2), 3, torch.full((1, 4, 2, 2), value))
        counts.append(len(shown))

    assert counts == [0, 0, 1], "no step waits for it"
    assert shown[0].min() == 255, "it is the picture of the first step"
