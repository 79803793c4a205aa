"""Text-to-image and text-to-video classes that the families leave out, each with the reason."""

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
