"""Which noise schedulers may take the place of a checkpoint's own: what diffusers' classes say of themselves. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from models.preflight import package_folder

UNINSTALLED = frozenset(
    {"LMSDiscreteScheduler", "DPMSolverSDEScheduler", "EDMEulerScheduler"}
)  # need scipy, torchsde, other inputs


def compatible_schedulers(model_index: Mapping[str, object], config: Mapping[str, object]) -> tuple[str, ...]:
    """The checkpoint's own first; only it where its class knows of no others. `config`: the checkpoint's scheduler_config.json.

    What its denoiser predicts has to mean something to the others: few of them know a flow.
    """
    match model_index.get("scheduler"):
        case ["diffusers", str(own)]:
            predicts = str(config.get("prediction_type", "epsilon"))
            others = _karras() if own in _with_others() else ()
            return (
                own,
                *(name for name in others if name not in (own, *UNINSTALLED) and f'"{predicts}"' in _sources()[name]),
            )
    return ()


@lru_cache(maxsize=1)
def _karras() -> tuple[str, ...]:
    """The classes that work from the same training schedule (an enumeration in diffusers' scheduling_utils.py)."""
    text = (package_folder("diffusers") / "schedulers" / "scheduling_utils.py").read_text(encoding="utf-8")
    body = text.split("class KarrasDiffusionSchedulers", 1)[-1].split("\n@", 1)[0].split("\nclass ", 1)[0]
    return tuple(re.findall(r"^    (\w+Scheduler) = \d+", body, re.MULTILINE))


@lru_cache(maxsize=1)
def _sources() -> Mapping[str, str]:
    """Class → the file it is in."""
    found: dict[str, str] = {}
    for path in (package_folder("diffusers") / "schedulers").glob("scheduling_*.py"):
        text = path.read_text(encoding="utf-8")
        found |= dict.fromkeys(re.findall(r"^class (\w+Scheduler)\(", text, re.MULTILINE), text)
    return found


@lru_cache(maxsize=1)
def _with_others() -> frozenset[str]:
    says = "_compatibles = [e.name for e in KarrasDiffusionSchedulers]"
    return frozenset(name for name, text in _sources().items() if says in text)
