"""Why the other classes that make pictures or clips from a prompt are not in the table of families."""

GUARDED = "its safety checker, which it insists on, is a package of its own that fetches models (cosmos_guardrail)"
DEPRECATED = "deprecated: diffusers keeps it and mends it no more"

REASONS = {
    "AltDiffusionPipeline": DEPRECATED,
    "Cosmos2TextToImagePipeline": GUARDED,
    "Cosmos2_5_PredictBasePipeline": GUARDED,
    "Cosmos3OmniPipeline": GUARDED,
    "CosmosTextToWorldPipeline": GUARDED,
    "StableDiffusionGLIGENPipeline": "needs other input: phrases and boxes",
    "StableDiffusionGLIGENTextImagePipeline": "needs other input: phrases, pictures and boxes",
    "StableDiffusionParadigmsPipeline": f"{DEPRECATED}; needs a scheduler of its own kind, and denoises many steps in one call",
    "TextToVideoZeroPipeline": DEPRECATED,
    "TextToVideoZeroSDXLPipeline": DEPRECATED,
    "UnCLIPPipeline": DEPRECATED,
    "UniDiffuserPipeline": DEPRECATED,
    "VQDiffusionPipeline": DEPRECATED,
    "VersatileDiffusionTextToImagePipeline": DEPRECATED,
    "WuerstchenCombinedPipeline": f"{DEPRECATED}; StableCascadeCombinedPipeline is its successor",
}
