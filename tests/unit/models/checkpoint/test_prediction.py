"""A single file says by tensors or metadata what its denoiser predicts, and that is compared with its base."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.checkpoint.noise_schedulers import compatible_schedulers
from models.checkpoint.prediction import said_by_file
from models.errors import BadModel
from tests.support.checkpoints import safetensors_bytes

EULER = "EulerDiscreteScheduler"
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def written(folder: Path, tensors: tuple[str, ...], metadata: dict[str, str]) -> Path:
    path = folder / "file.safetensors"
    path.write_bytes(safetensors_bytes({name: ("F32", [0], 0) for name in tensors}, __metadata__=metadata))
    return path


@pytest.mark.parametrize(
    ("tensors", "metadata", "settings"),
    [
        (("v_pred",), {}, {"prediction_type": "v_prediction"}),
        (("v_pred", "ztsnr"), {}, ZERO_SNR),
        (("v_pred",), {"modelspec.prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}),
        ((), {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        ((), {"modelspec.prediction_type": "epsilon"}, {}),
        ((), {"modelspec.prediction_type": "v", "ss_zero_terminal_snr": "True"}, ZERO_SNR),
        ((), {"ss_v_parameterization": "True"}, {"prediction_type": "v_prediction"}),
        ((), {"ss_v_parameterization": "False", "modelspec.architecture": "stable-diffusion-xl-v1-base"}, {}),
        ((), {}, {}),
    ],
)
def test_what_the_file_says_replaces_what_its_base_says(
    tmp_path: Path, tensors: tuple[str, ...], metadata: dict[str, str], settings: dict[str, object]
) -> None:
    said = said_by_file(written(tmp_path, tensors, metadata), EULER, {"prediction_type": "epsilon"})

    assert said.settings == settings
    assert bool(said.notes) == bool(settings)


def test_a_file_that_agrees_with_its_base_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, ("v_pred",), {})

    assert said_by_file(path, EULER, {"prediction_type": "v_prediction"}).settings == {}


def test_a_file_can_say_that_it_predicts_noise_where_its_base_predicts_v(tmp_path: Path) -> None:
    said = said_by_file(
        written(tmp_path, (), {"modelspec.prediction_type": "epsilon"}), EULER, {"prediction_type": "v_prediction"}
    )

    assert said.settings == {"prediction_type": "epsilon"}
    assert said.notes == ("Sampled as epsilon as the file says (modelspec.prediction_type), not as its base.",)


def test_the_scheduler_of_a_flow_has_no_such_setting(tmp_path: Path) -> None:
    path = written(tmp_path, (), {"modelspec.prediction_type": "v"})

    assert said_by_file(path, "FlowMatchEulerDiscreteScheduler", {}).settings == {}


def test_an_edm_checkpoint_needs_a_base_with_an_edm_scheduler(tmp_path: Path) -> None:
    path = written(tmp_path, ("edm_vpred.sigma_max", "edm_vpred.sigma_min"), {})

    with pytest.raises(BadModel, match="its base must have an EDM scheduler"):
        said_by_file(path, EULER, {})
    assert said_by_file(path, "EDMEulerScheduler", {}).settings == {}


def test_only_schedulers_that_know_the_settings_are_offered() -> None:
    index = {"scheduler": ["diffusers", "PNDMScheduler"]}

    assert compatible_schedulers(index, {})[0] == "PNDMScheduler"
    assert compatible_schedulers(index, {"prediction_type": "v_prediction"})[0] == "PNDMScheduler"
    assert compatible_schedulers(index, ZERO_SNR)[0] == EULER
    assert not {"PNDMScheduler", "HeunDiscreteScheduler"} & {*compatible_schedulers(index, ZERO_SNR)}
    assert "DDIMScheduler" in compatible_schedulers(index, ZERO_SNR)
