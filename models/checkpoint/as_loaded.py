"""Works out what the load options of models.toml change of a checkpoint: its bytes and its noise schedulers.

Any thread; no torch.
"""

from __future__ import annotations

from dataclasses import replace

from models.adapters.adapter_files import adapter_bytes
from models.checkpoint.noise_schedulers import compatible_schedulers, samples_noise, scheduler_config
from models.checkpoint.prediction import with_zero_terminal_snr
from models.checkpoint.resident_bytes import ServedAs, component_bytes
from models.errors import BadModel
from models.files.json_files import read_config
from models.spec import ModelSpec


def as_loaded(spec: ModelSpec, float_bytes: int) -> ModelSpec:
    """Returns the spec with the bytes and schedulers that it has with its load options.

    float_bytes: the width of every float as it is served. Raises `BadModel` for a prediction that its scheduler does
    not know.
    """
    if spec.path is None:
        return spec
    if spec.adapter is not None:
        return replace(spec, weight_bytes=adapter_bytes(spec.path, float_bytes))
    served = ServedAs(float_bytes, spec.dtype == "float16", spec.load.quantization, spec.vae_path)
    n_bytes = component_bytes(spec.path, spec.base_path, served)
    return replace(
        _with_prediction(spec),
        weight_bytes=sum(n_bytes.values()),
        shareable={part: (identity, n_bytes[part]) for part, (identity, _) in spec.shareable.items()},
    )


def _with_prediction(spec: ModelSpec) -> ModelSpec:
    load = spec.load
    if load.prediction_type is None and not load.zero_terminal_snr:
        return spec
    option = "load.prediction_type" if load.prediction_type is not None else "load.zero_terminal_snr"
    folder = spec.base_path or spec.path
    if not spec.is_diffusion or folder is None:
        raise BadModel(f"{option} is for image and video models")
    model_index = read_config(folder / "model_index.json")
    if not spec.schedulers or not samples_noise(spec.schedulers[0]):
        raise BadModel(f"{option}: the noise scheduler of {spec.pipeline} has no such setting")
    settings = {**spec.scheduler_config}
    if load.prediction_type is not None:
        settings["prediction_type"] = load.prediction_type
    if load.zero_terminal_snr:
        settings |= with_zero_terminal_snr()
    schedulers = compatible_schedulers(model_index, {**scheduler_config(folder), **settings})
    return replace(spec, scheduler_config=settings, schedulers=schedulers)
