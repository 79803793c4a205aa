"""Tiny random checkpoints of diffusers' pipelines that make pictures and clips, built in code without downloads."""

from benchmarks.families import (
    clips,
    clips_wan,
    dits_cross,
    dits_flow,
    dits_llm,
    pictures_clips,
    pictures_control,
    pictures_flow,
    pictures_llm,
    pictures_prior,
    pictures_unets,
    pictures_wan,
    sound,
    unets,
    unets_prior,
    vision,
)
from benchmarks.families.family import Family

# Classes that make a picture or clip from a prompt.
FAMILIES = {
    family.name: family
    for module in (unets, unets_prior, dits_flow, dits_cross, dits_llm, vision, clips, clips_wan, sound)
    for family in module.FAMILIES
}
# Classes that are given pictures or clips. A few of them are above too: they work with and without.
PICTURE_FAMILIES = {
    family.name: family
    for module in (
        pictures_unets,
        pictures_flow,
        pictures_llm,
        pictures_control,
        pictures_clips,
        pictures_wan,
        pictures_prior,
    )
    for family in module.FAMILIES
}

__all__ = ["FAMILIES", "PICTURE_FAMILIES", "Family"]
