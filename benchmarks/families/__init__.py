"""Tiny random checkpoints of diffusers' text-to-image and text-to-video pipelines, built in code without downloads."""

from benchmarks.families import clips, clips_wan, dits_cross, dits_flow, dits_llm, sound, unets, unets_prior, vision
from benchmarks.families.family import Family

FAMILIES = {
    family.name: family
    for module in (unets, unets_prior, dits_flow, dits_cross, dits_llm, vision, clips, clips_wan, sound)
    for family in module.FAMILIES
}

__all__ = ["FAMILIES", "Family"]
