"""Tiny random checkpoints of diffusers' text-to-image and text-to-video pipelines, made in code, offline."""

from benchmarks.families import clips, dits_cross, dits_flow, dits_llm, unets
from benchmarks.families.family import Family

FAMILIES = {
    family.name: family
    for family in (*unets.FAMILIES, *dits_flow.FAMILIES, *dits_cross.FAMILIES, *dits_llm.FAMILIES, *clips.FAMILIES)
}

__all__ = ["FAMILIES", "Family"]
