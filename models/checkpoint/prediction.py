"""Reads what a single file says of its denoiser: whether it predicts noise or v, and on which noise schedule.

The tensors `v_pred` and `ztsnr` have no content: their names say it, as ComfyUI writes them. The metadata is that of
modelspec and of kohya's scripts; where both are there, the tensors count. Any thread; no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.checkpoint.noise_schedulers import ZERO_TERMINAL_SNR, samples_noise
from models.errors import BadModel
from models.files.safetensors_header import read_safetensors_metadata
from models.files.weight_header import tensors_of

V_PREDICTION, ZTSNR = "v_pred", "ztsnr"  # names of tensors
EDM = ("edm_mean", "edm_vpred.sigma_max")  # names of tensors: Playground 2.5, CosXL
MARKERS = (V_PREDICTION, ZTSNR, *EDM, "edm_std", "edm_vpred.sigma_min")
MODELSPEC = "modelspec.prediction_type"
PREDICTIONS = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}
KOHYA_V, KOHYA_ZTSNR = "ss_v_parameterization", "ss_zero_terminal_snr"


@dataclass(frozen=True, slots=True)
class SaidByFile:
    """Settings of the noise scheduler that differ from those of the base."""

    settings: Mapping[str, object] = field(default_factory=dict)  # of scheduler_config.json
    notes: tuple[str, ...] = ()


def said_by_file(path: Path, base_scheduler: str, base_config: Mapping[str, object]) -> SaidByFile:
    """Compares the file with the scheduler of its base. Raises `BadModel` for EDM, which needs a scheduler of its own.

    base_scheduler: class name. base_config: its scheduler_config.json.
    """
    tensors = tensors_of(path)
    if (edm := next((name for name in EDM if name in tensors), None)) and not base_scheduler.startswith("EDM"):
        raise BadModel(
            f"is an EDM checkpoint ({edm}): its base must have an EDM scheduler, that of this base is {base_scheduler}"
        )
    metadata = read_safetensors_metadata(path) if path.suffix == ".safetensors" else {}
    if not samples_noise(base_scheduler):
        return SaidByFile()
    prediction, said_by = _prediction(frozenset(tensors), metadata)
    if prediction is None:
        return SaidByFile()
    settings: dict[str, object] = {}
    if prediction != base_config.get("prediction_type", "epsilon"):
        settings["prediction_type"] = prediction
    if prediction == "v_prediction" and (ZTSNR in tensors or _is_true(metadata, KOHYA_ZTSNR)):
        settings |= with_zero_terminal_snr()
        said_by += f", {ZTSNR if ZTSNR in tensors else KOHYA_ZTSNR}"
    if not settings:
        return SaidByFile()
    schedule = ", on a schedule that ends in pure noise," if ZERO_TERMINAL_SNR in settings else ""
    return SaidByFile(settings, (f"Sampled as {prediction}{schedule} as the file says ({said_by}), not as its base.",))


def with_zero_terminal_snr() -> dict[str, object]:
    """Returns the settings of a schedule that ends in pure noise: sampling has to begin at its end too."""
    return {ZERO_TERMINAL_SNR: True, "timestep_spacing": "trailing"}


def _prediction(tensors: frozenset[str], metadata: Mapping[str, str]) -> tuple[str | None, str]:
    """Returns what the denoiser predicts, None when the file does not say; and the name that says it."""
    if V_PREDICTION in tensors:
        return "v_prediction", V_PREDICTION
    if (said := PREDICTIONS.get(metadata.get(MODELSPEC, "").lower())) is not None:
        return said, MODELSPEC
    if _is_true(metadata, KOHYA_V):
        return "v_prediction", KOHYA_V
    return None, ""


def _is_true(metadata: Mapping[str, str], key: str) -> bool:
    return metadata.get(key, "").lower() == "true"
