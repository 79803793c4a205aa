"""A loaded model passes a smoke test before it is offered: one step must give finite numbers that vary."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.errors import LoadFailed
from models.loading.load import load
from models.loading.smoke import smoke_test, smoke_test_chat_model
from models.spec import Defaults, ModelSpec
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import Failed, FailureCode, Rendered, Update
from tests.support.catalogues import open_catalogue
from tests.support.lanes.loaded_models import save_chat, save_stable_diffusion
from tests.support.lanes.tiny_chat import tiny_model


class LaneOfFixedSteps:
    """As much of a lane as the smoke test uses. It fails every request with another number of steps."""

    def __init__(self, steps: int, code: FailureCode, detail: str = "") -> None:
        self._steps, self._detail = steps, detail
        self._code: FailureCode = code
        self.admitted: list[DiffusionRequest] = []

    def admit(self, request: DiffusionRequest) -> None:
        self.admitted.append(request)

    def step(self) -> Sequence[Update]:
        request = self.admitted[-1]
        if request.steps != self._steps:
            return [Failed(request.id, self._code, "The pipeline refused the arguments of this job.", self._detail)]
        return [Rendered(request.id, np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 2, 2, 3), 1, "Euler")]


SPEC = ModelSpec(name="m", type="image", path=None, source="m", defaults=Defaults(steps=48, width=512, height=512))


def test_a_pipeline_that_refuses_few_steps_is_tried_with_its_default_number() -> None:
    lane = LaneOfFixedSteps(48, "bad_request")
    smoke_test(lane, SPEC)  # type: ignore[arg-type]  # see LaneOfFixedSteps

    assert [(request.steps, request.width) for request in lane.admitted] == [(1, 64), (1, 256), (2, 512), (48, 512)]


def test_a_pipeline_that_fails_for_another_reason_is_not_tried_with_its_default_number() -> None:
    lane = LaneOfFixedSteps(48, "model_error")

    with pytest.raises(LoadFailed):
        smoke_test(lane, SPEC)  # type: ignore[arg-type]  # see LaneOfFixedSteps
    assert [request.steps for request in lane.admitted] == [1, 1, 2]


def test_a_failed_trial_tells_admins_the_librarys_own_error_and_clients_that_it_failed() -> None:
    try:
        try:
            raise KeyError("an earlier one")
        except KeyError as error:
            raise ValueError("`height` has to be 8,\nnot 7:\n  this is the third line") from error
    except ValueError as error:
        detail = "".join(traceback.format_exception(error))

    with pytest.raises(LoadFailed) as failed:
        smoke_test(LaneOfFixedSteps(48, "bad_request", detail), replace(SPEC, defaults=Defaults(steps=2)))  # type: ignore[arg-type]  # see LaneOfFixedSteps

    assert failed.value.message == "The model m failed to load: a one-step trial failed."
    assert failed.value.detail == "ValueError: `height` has to be 8,\nnot 7:\n  this is the third line"


@pytest.mark.slow
def test_a_sound_model_is_tested_once_and_one_with_nan_weights_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, smoke_tested = save_stable_diffusion(tmp_path), set[str]()
    load(spec, device="cpu", smoke_tested=smoke_tested)
    assert smoke_tested == {spec.fingerprint}
    with monkeypatch.context() as patched:
        patched.setattr("models.loading.load.smoke_test", lambda *_: pytest.fail("it was tested again"))
        load(spec, device="cpu", smoke_tested=smoke_tested)

    file = tmp_path / "models/sd/unet/diffusion_pytorch_model.safetensors"
    save_file({name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(LoadFailed, match="not numbers"):
        load(open_catalogue(tmp_path).get("sd"), device="cpu", smoke_tested=smoke_tested)


@pytest.mark.slow
def test_a_language_model_with_nan_weights_fails(tmp_path: Path) -> None:
    save_chat(tmp_path / "models/tiny")
    file = tmp_path / "models/tiny/model.safetensors"
    save_file({name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(file).items()}, file)

    with pytest.raises(LoadFailed, match="weights are broken"):
        load(open_catalogue(tmp_path).get("tiny"), device="cpu", cache_bytes=4 << 20, smoke_tested=set())


@pytest.mark.parametrize("value", [0.0, 1e30])
def test_a_language_model_that_finds_all_tokens_equally_likely_fails(value: float) -> None:
    model = tiny_model()
    spec = ModelSpec(name="m", type="chat", path=None, source="m")
    smoke_test_chat_model(model, spec, [5, 6])
    with torch.no_grad():
        model.lm_head.weight.fill_(value)

    with pytest.raises(LoadFailed, match="all tokens equally likely"):
        smoke_test_chat_model(model, spec, [5, 6])


def test_a_video_model_of_broken_weights_is_not_tried_at_its_native_size() -> None:
    lane = LaneOfFixedSteps(steps=0, code="invalid_output")
    spec = ModelSpec(
        name="m", type="video", path=None, source="m", defaults=Defaults(width=832, height=480, num_frames=81)
    )

    with pytest.raises(LoadFailed):
        smoke_test(lane, spec)  # type: ignore[arg-type]  # see LaneOfFixedSteps

    assert [request.width for request in lane.admitted] == [64, 256]
