"""What a pipeline class makes is read from its source, for every class of the installed diffusers."""

from __future__ import annotations

import pytest

from models.checkpoint.pipeline_source import pipeline_source, text_pipelines


@pytest.mark.slow
def test_every_text_pipeline_of_the_installed_diffusers_has_the_right_type() -> None:
    found = dict(text_pipelines())

    videos = {name for name, kind in found.items() if kind == "video"}
    assert {"WanPipeline", "LTXPipeline", "LTX2Pipeline", "CogVideoXPipeline", "HunyuanVideoPipeline"} <= videos
    assert {"MochiPipeline", "AnimateDiffPipeline", "AllegroPipeline", "LattePipeline", "SanaVideoPipeline"} <= videos
    assert {
        "TextToVideoSDPipeline",
        "SkyReelsV2Pipeline",
        "Kandinsky5T2VPipeline",
        "CosmosTextToWorldPipeline",
    } <= videos
    images = found.keys() - videos
    assert {"StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"} <= images
    assert {"FluxPipeline", "Flux2Pipeline", "QwenImagePipeline", "QwenImage21Pipeline", "SanaPipeline"} <= images
    assert {"PixArtSigmaPipeline", "KandinskyV22CombinedPipeline", "ZImagePipeline", "Lumina2Pipeline"} <= images
    assert not any("Video" in name or "Audio" in name for name in images)
    assert len(found) > 100


def test_the_types_agree_with_diffusers_own_table_of_text_to_image_classes() -> None:
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    # That table also lists classes that need a control image, and Helios, which returns frames.
    theirs = {cls.__name__ for cls in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    theirs = {name for name in theirs if "Control" not in name and "Helios" not in name}
    sources = {name: pipeline_source(name) for name in theirs}

    assert {name for name, source in sources.items() if source is None or source.text_to != "image"} == set()
