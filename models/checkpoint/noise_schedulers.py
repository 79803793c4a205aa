"""Lists the noise schedulers that may replace a checkpoint's own, from the source of diffusers' classes. Any thread."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from models.installed_libraries import package_folder

# These need scipy, torchsde or other inputs than the rest.
UNUSABLE = frozenset({"LMSDiscreteScheduler", "DPMSolverSDEScheduler", "EDMEulerScheduler"})


def compatible_schedulers(model_index: Mapping[str, object], config: Mapping[str, object]) -> tuple[str, ...]:
    """Returns class names, the checkpoint's own first, and no other where its class declares no compatible ones.

    config: the checkpoint's scheduler_config.json. A scheduler is left out when it does not know what the denoiser
    predicts; only a few of them know a flow.
    """
    match model_index.get("scheduler"):
        case ["diffusers", str(own)]:
            prediction = str(config.get("prediction_type", "epsilon"))
            others = (
                [name for name in _karras() if name not in (own, *UNUSABLE)] if own in _compatible_classes() else []
            )
            return (own, *(name for name in others if f'"{prediction}"' in _sources()[name]))
    return ()


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
