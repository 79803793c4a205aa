"""The families of single files, by a tensor that no other family has; and files that are only a part of a model.

Pure functions over the tensors of a file.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import BadModel
from models.files.weight_header import Tensors

DENOISER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    marker: str  # a tensor that no family below has, without the prefix of the denoiser
    denoiser: str  # the class of diffusers that reads it
    repo: str  # the hub repository that lends configs and missing parts
    shipped_configs: str | None = None  # folder in models/configs, for a file that contains all weights
    width: int | None = None  # first dimension of the marker, where sizes of one family have bases of their own


UNET = "UNet2DConditionModel"
SD3 = "SD3Transformer2DModel"
FLUX = "FluxTransformer2DModel"
FLUX2 = "Flux2Transformer2DModel"
WAN = "WanTransformer3DModel"
VACE = "WanVACETransformer3DModel"
FAMILIES = (
    Family("SDXL", "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias", UNET,
           "stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
    Family("SD 1.5", "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", UNET,
           "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
    Family("SD 2", "cond_stage_model.model.token_embedding.weight", UNET, "stabilityai/stable-diffusion-2-1"),
    Family("SD 3.5 large", "joint_blocks.37.x_block.mlp.fc1.weight", SD3,
           "stabilityai/stable-diffusion-3.5-large", "sd35-large"),
    Family("SD 3.5 medium", "joint_blocks.0.x_block.attn2.qkv.weight", SD3,
           "stabilityai/stable-diffusion-3.5-medium", "sd35-medium"),
    Family("SD 3", "joint_blocks.0.context_block.adaLN_modulation.1.bias", SD3,
           "stabilityai/stable-diffusion-3-medium-diffusers", "sd3"),
    Family("FLUX.2 klein 4B", "double_stream_modulation_img.lin.weight", FLUX2, "black-forest-labs/FLUX.2-klein-4B",
           width=18432),
    Family("FLUX.2 klein 9B", "double_stream_modulation_img.lin.weight", FLUX2, "black-forest-labs/FLUX.2-klein-9B",
           width=24576),
    Family("FLUX.2", "double_stream_modulation_img.lin.weight", FLUX2, "black-forest-labs/FLUX.2-dev"),
    Family("Chroma", "distilled_guidance_layer.in_proj.bias", "ChromaTransformer2DModel", "lodestones/Chroma1-HD"),
    Family("HunyuanVideo", "txt_in.individual_token_refiner.blocks.0.adaLN_modulation.1.bias",
           "HunyuanVideoTransformer3DModel", "hunyuanvideo-community/HunyuanVideo"),
    Family("FLUX.1", "guidance_in.in_layer.bias", FLUX, "black-forest-labs/FLUX.1-dev"),
    Family("FLUX.1", "double_blocks.0.img_attn.norm.key_norm.scale", FLUX, "black-forest-labs/FLUX.1-schnell"),
    Family("Wan VACE", "vace_blocks.0.after_proj.bias", VACE, "Wan-AI/Wan2.1-VACE-1.3B-diffusers", width=1536),
    Family("Wan VACE", "vace_blocks.0.after_proj.bias", VACE, "Wan-AI/Wan2.1-VACE-14B-diffusers"),
    Family("Wan 1.3B", "patch_embedding.weight", WAN, "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", width=1536),
    Family("Wan 5B", "patch_embedding.weight", WAN, "Wan-AI/Wan2.2-TI2V-5B-Diffusers", width=3072),
    Family("Wan", "head.modulation", WAN, "Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    Family("LTX-2", "av_ca_a2v_gate_adaln_single.emb.timestep_embedder.linear_1.weight", "LTX2VideoTransformer3DModel",
           "Lightricks/LTX-2"),
    Family("LTX-Video", "patchify_proj.weight", "LTXVideoTransformer3DModel", "Lightricks/LTX-Video"),
    Family("Qwen-Image 2.1", "txt_in.text_norm.weight", "QwenImage21Transformer2DModel", "Qwen/Qwen-Image-2.1"),
    Family("Qwen-Image", "txt_norm.weight", "QwenImageTransformer2DModel", "Qwen/Qwen-Image"),
    Family("Krea 2", "txtfusion.projector.weight", "Krea2Transformer2DModel", "krea/Krea-2-Raw"),
    Family("Z-Image", "layers.0.adaLN_modulation.0.weight", "ZImageTransformer2DModel", "Tongyi-MAI/Z-Image-Turbo"),
    Family("Lumina 2", "cap_embedder.0.weight", "Lumina2Transformer2DModel", "Alpha-VLLM/Lumina-Image-2.0"),
    Family("HiDream", "double_stream_blocks.0.block.adaLN_modulation.1.bias", "HiDreamImageTransformer2DModel",
           "HiDream-ai/HiDream-I1-Dev"),
    Family("AuraFlow", "cond_seq_linear.weight", "AuraFlowTransformer2DModel", "fal/AuraFlow-v0.3"),
    Family("Mochi", "blocks.0.attn.qkv_x.weight", "MochiTransformer3DModel", "genmo/mochi-1-preview"),
)  # fmt: skip
REFUSED = {  # a tensor → what the file is, for files that no base completes
    "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias":
        "is an SDXL refiner: it improves an image, and makes none from a prompt",
    "control_model.time_embed.0.weight": "is a ControlNet, which is served by no model alone",
    "controlnet_cond_embedding.conv_in.weight": "is a ControlNet, which is served by no model alone",
    "motion_encoder.dec.direction.weight": "is Wan Animate, which makes a clip from another clip",
    "net.x_embedder.proj.1.weight":
        "is a Cosmos model: its pipeline in diffusers needs a package of guard models, and is not served",
}  # fmt: skip
PARTS = {  # a tensor of a file that is one part of a model → what to do with it
    "decoder.conv_in.weight": "is a VAE: name it as load.vae of another model",
    "decoder.conv1.weight": "is a VAE: name it as load.vae of another model",
    "text_model.embeddings.token_embedding.weight": "is a text encoder, which a model holds beside its denoiser",
    "encoder.block.0.layer.0.SelfAttention.q.weight": "is a text encoder, which a model holds beside its denoiser",
}
TEXT_ENCODERS = ("t5", "t5encoder", "clip", "bert", "nomic-bert")  # general.architecture of a GGUF


def family_of(tensors: Tensors) -> Family | None:
    """Returns None for a family that is not known. Raises `BadModel` for a file that cannot be a model by itself."""
    for name, what in REFUSED.items():
        if name in tensors:
            raise BadModel(what)
    if any(".lora_" in name or name.endswith((".hada_w1_a", ".lokr_w1")) for name in tensors):
        raise BadModel("is a LoRA: put it into a folder of LoRAs, and name it in a request")
    prefix = denoiser_prefix(tensors)
    if prefix is None:
        raise BadModel("holds its U-Net only as EMA copies (model_ema), which the library does not open by themselves")
    for family in FAMILIES:
        marker = tensors.get(prefix + family.marker, tensors.get(family.marker))
        if marker is not None and family.width in (None, *marker.shape[:1]):
            return family
    if (part := next((what for name, what in PARTS.items() if name in tensors), None)) is not None:
        raise BadModel(part)
    return None


def denoiser_prefix(tensors: Tensors) -> str | None:
    """Returns the prefix of the denoiser's tensors, None for a file that has only EMA copies of it."""
    for prefix in DENOISER_PREFIXES[:-1]:
        if any(name.startswith(prefix) for name in tensors):
            return prefix
    return None if any(name.startswith("model_ema.") for name in tensors) else ""
