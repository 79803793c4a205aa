"""AUTOMATIC1111's names of samplers and diffusers' classes of noise schedulers, in both directions. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

# AUTOMATIC1111's sampler names → diffusers' scheduler classes. None: diffusers has no equivalent, so that the model's
# own scheduler is used.
SAMPLERS: Mapping[str, str | None] = {
    "Euler a": "EulerAncestralDiscreteScheduler",
    "Euler": "EulerDiscreteScheduler",
    "Heun": "HeunDiscreteScheduler",
    "LMS": "LMSDiscreteScheduler",
    "DPM2": "KDPM2DiscreteScheduler",
    "DPM2 a": "KDPM2AncestralDiscreteScheduler",
    "DPM++ 2M": "DPMSolverMultistepScheduler",
    "DPM++ SDE": "DPMSolverSDEScheduler",
    "DEIS": "DEISMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
    "PLMS": "PNDMScheduler",
    **dict.fromkeys(
        (
            "DPM++ 2S a", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "DPM fast", "DPM adaptive", "Restart",
            "LCM", "DDIM CFG++",
        )
    ),
}  # fmt: skip
SAMPLER_NAMES = {scheduler: name for name, scheduler in SAMPLERS.items() if scheduler}
# Classes that no request can choose by a name of AUTOMATIC1111, but whose solver has one there.
OTHER_NAMES = {
    "LCMScheduler": "LCM",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "FlowMatchHeunDiscreteScheduler": "Heun",
    "FlowMatchLCMScheduler": "LCM",
    "EDMEulerScheduler": "Euler",
    "EDMDPMSolverMultistepScheduler": "DPM++ 2M",
    "CogVideoXDDIMScheduler": "DDIM",
    "DDIMParallelScheduler": "DDIM",
    "DDPMParallelScheduler": "DDPM",
}
SPACINGS = {"use_karras_sigmas": "Karras", "use_exponential_sigmas": "Exponential", "use_beta_sigmas": "Beta"}
WITHOUT_SPACINGS = frozenset(  # they ignore these settings when they take over another scheduler's configuration
    {
        "EulerAncestralDiscreteScheduler",
        "DDIMScheduler",
        "DDPMScheduler",
        "PNDMScheduler",
        "LCMScheduler",
        "CogVideoXDDIMScheduler",
    }
)


def sampler_of(scheduler: str, settings: Mapping[str, object]) -> tuple[str, str | None]:
    """AUTOMATIC1111's sampler and its type of schedule, None: automatic. Unknown classes keep diffusers' name.

    settings: of the scheduler's configuration.
    """
    name = SAMPLER_NAMES.get(scheduler) or OTHER_NAMES.get(scheduler) or scheduler
    if name == "DPM++ 2M" and settings.get("algorithm_type") == "sde-dpmsolver++":
        name = "DPM++ 3M SDE" if settings.get("solver_order") == 3 else "DPM++ 2M SDE"
    if scheduler in WITHOUT_SPACINGS:
        return name, None
    return name, next((spacing for setting, spacing in SPACINGS.items() if settings.get(setting) is True), None)
