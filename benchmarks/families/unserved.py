"""The pipeline classes for images and video that the families leave out, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.families import FAMILIES, PICTURE_FAMILIES
from models.checkpoint.pipeline_source import PipelineSource, module_of, pipeline_source, text_pipelines
from models.installed_libraries import pipeline_files

GUARDED = "requires a safety checker from a package that fetches models (cosmos_guardrail)"
DEPRECATED = "deprecated: diffusers no longer maintains it"

REASONS = {
    "AltDiffusionPipeline": DEPRECATED,
    "Cosmos2TextToImagePipeline": GUARDED,
    "Cosmos2_5_PredictBasePipeline": GUARDED,
    "Cosmos3OmniPipeline": GUARDED,
    "CosmosTextToWorldPipeline": GUARDED,
    "StableDiffusionGLIGENPipeline": "needs other input: phrases and boxes",
    "StableDiffusionGLIGENTextImagePipeline": "needs other input: phrases, pictures and boxes",
    "StableDiffusionParadigmsPipeline": "deprecated; needs its own kind of scheduler, denoises many steps in one call",
    "TextToVideoZeroPipeline": DEPRECATED,
    "TextToVideoZeroSDXLPipeline": DEPRECATED,
    "UnCLIPPipeline": DEPRECATED,
    "UniDiffuserPipeline": DEPRECATED,
    "VQDiffusionPipeline": DEPRECATED,
    "VersatileDiffusionTextToImagePipeline": DEPRECATED,
    "WuerstchenCombinedPipeline": f"{DEPRECATED}; successor: StableCascadeCombinedPipeline",
}

# Classes that take pictures or clips. `models.checkpoint.pipeline_inputs` has the reasons of those that need another
# kind of input; deprecated ones are told by their module.
WITH_PICTURES = {
    "BlipDiffusionControlNetPipeline": "needs a picture of a subject and the names of two subjects",
    "ChromaInpaintPipeline": "fails in diffusers: it reads guidance_embeds, which a Chroma transformer does not have",
    "Cosmos2VideoToWorldPipeline": GUARDED,
    "Cosmos2_5_TransferPipeline": GUARDED,
    "CosmosVideoToWorldPipeline": GUARDED,
    "GlmImagePipeline": "with pictures: fails, as diffusers packs them otherwise than transformers 5.23 reads them",
    "Kandinsky6SRPipeline": "makes a clip larger and takes no prompt or size; no tiny checkpoint of it has been built",
    "LTXI2VLongMultiPromptPipeline": "makes long clips from several prompts; LTXImageToVideoPipeline makes one clip",
    "SanaWMPipeline": "needs the path of a camera",
    "StableCascadeCombinedPipeline": "with pictures: no tiny checkpoint with its image encoder has been built",
    "ZImageOmniPipeline": "with pictures: diffusers converts them to bfloat16, whatever the dtype of the VAE",
}


def left_out_with_pictures() -> Mapping[str, str | None]:
    """Returns each class that takes pictures or clips and has no family → why, None where no reason is known."""
    found: dict[str, str | None] = {}
    for name in sorted(pipeline_files()):
        source = pipeline_source(name) if name.endswith("Pipeline") else None
        if source is None or source.output is None or name in PICTURE_FAMILIES or name in REASONS:
            continue
        if not _needs_more_than_text(source) and not (name in FAMILIES and name in WITH_PICTURES):
            continue
        deprecated = DEPRECATED if ".deprecated." in (module_of(name) or "") else None
        found[name] = WITH_PICTURES.get(name) or deprecated or source.unserved
    return found


def _needs_more_than_text(source: PipelineSource) -> bool:
    return source.unserved is not None or (source.text_to is None and any(each.arguments for each in source.inputs))


def without_reason() -> list[str]:
    """Returns the classes that have neither a family nor a reason for having none."""
    of_text = {name for name, _ in text_pipelines()} - FAMILIES.keys() - REASONS.keys()
    return sorted(of_text | {name for name, reason in left_out_with_pictures().items() if reason is None})
