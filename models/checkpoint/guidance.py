"""Decides which argument of a pipeline's `__call__` a request's guidance_scale sets. Pure function; no torch.

It is the one that guides the checkpoint. A class may take a scale that a model distilled for guidance gets as an input,
and beside it the scale of classifier-free guidance: whether the denoiser was distilled is in its config.
"""

from __future__ import annotations

from models.checkpoint.component_configs import Configs, denoiser_config
from models.checkpoint.pipeline_source import PipelineSource

USUAL = "guidance_scale"
CLASSIFIER_FREE = "true_cfg_scale"  # of Qwen-Image, Flux, HunyuanVideo
DISTILLED = "distilled_guidance_scale"  # of HunyuanImage; other classes call it `guidance_scale`


def guidance_argument(pipeline: PipelineSource, configs: Configs) -> str:
    """Returns `guidance_scale` also for a class that takes no scale, or several of which none is the main one."""
    arguments, distilled = pipeline.arguments, denoiser_config(configs).get("guidance_embeds")
    if CLASSIFIER_FREE in arguments:
        if distilled is None:  # an old config; Qwen-Image, which is not distilled, has no number as its default
            distilled = USUAL in pipeline.defaults
        return USUAL if distilled and USUAL in arguments else CLASSIFIER_FREE
    if USUAL in arguments:
        return USUAL
    scales = [name for name in sorted(arguments) if name.endswith(USUAL) and (name != DISTILLED or distilled)]
    # Stable Cascade guides its prior; the scale of its decoder is 0, which turns it off.
    on = [name for name in scales if isinstance(value := pipeline.defaults.get(name), int | float) and value > 0]
    return on[0] if len(on) == 1 else USUAL
