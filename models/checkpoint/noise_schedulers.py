"""Lists the noise schedulers that may replace a checkpoint's own, from the source of diffusers' classes. Any thread."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from models.files.json_files import read_config
from models.installed_libraries import package_folder

# These need scipy, torchsde or other inputs than the rest.
UNUSABLE = frozenset({"LMSDiscreteScheduler", "DPMSolverSDEScheduler", "EDMEulerScheduler"})
ZERO_TERMINAL_SNR = "rescale_betas_zero_snr"  # the setting of a training schedule that ends in pure noise
KNOWS_ZERO_TERMINAL_SNR = "EulerDiscreteScheduler"  # takes the place of a scheduler that does not


def compatible_schedulers(model_index: Mapping[str, object], config: Mapping[str, object]) -> tuple[str, ...]:
    """Returns class names, the checkpoint's own first, and no other where its class declares no compatible ones.

    config: the settings of the checkpoint's scheduler. A scheduler is left out when it does not know what the denoiser
    predicts (only a few know a flow), or no schedule that ends in pure noise; so is the checkpoint's own then.
    """
    match model_index.get("scheduler"):
        case ["diffusers", str(own)]:
            if own not in _compatible_classes():
                return (own,)
            words = [f'"{config.get("prediction_type", "epsilon")}"']
            if config.get(ZERO_TERMINAL_SNR):
                words.append(ZERO_TERMINAL_SNR)
            able = [
                name for name in _karras() if name not in UNUSABLE and all(word in _sources()[name] for word in words)
            ]
            first = own if own in able or not config.get(ZERO_TERMINAL_SNR) else KNOWS_ZERO_TERMINAL_SNR
            return (first, *(name for name in able if name != first))
    return ()


def scheduler_config(folder: Path) -> Mapping[str, object]:
    """Returns the settings of a pipeline folder's scheduler, none when it has no scheduler."""
    path = folder / "scheduler" / "scheduler_config.json"
    return read_config(path) if path.is_file() else {}


def samples_noise(class_name: str) -> bool:
    """Returns whether a scheduler is one of those that know what a denoiser predicts, not one of a flow."""
    return class_name in _compatible_classes()


@lru_cache(maxsize=1)
def _karras() -> tuple[str, ...]:
    """Returns the classes that share one training schedule: an enumeration in diffusers' scheduling_utils.py."""
    text = (package_folder("diffusers") / "schedulers" / "scheduling_utils.py").read_text(encoding="utf-8")
    body = text.split("class KarrasDiffusionSchedulers", 1)[-1].split("\n@", 1)[0].split("\nclass ", 1)[0]
    return tuple(re.findall(r"^    (\w+Scheduler) = \d+", body, re.MULTILINE))


@lru_cache(maxsize=1)
def _sources() -> Mapping[str, str]:
    """Returns class name → source text of its file."""
    found: dict[str, str] = {}
    for path in (package_folder("diffusers") / "schedulers").glob("scheduling_*.py"):
        text = path.read_text(encoding="utf-8")
        found |= dict.fromkeys(re.findall(r"^class (\w+Scheduler)\(", text, re.MULTILINE), text)
    return found


@lru_cache(maxsize=1)
def _compatible_classes() -> frozenset[str]:
    """Returns the classes that declare themselves compatible with those of `_karras`."""
    declaration = "_compatibles = [e.name for e in KarrasDiffusionSchedulers]"
    return frozenset(name for name, text in _sources().items() if declaration in text)
