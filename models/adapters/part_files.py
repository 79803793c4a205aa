"""Recognizes single files that hold a VAE, an IP-Adapter or a textual inversion. Pure functions; no torch."""

from __future__ import annotations

import re

from models.adapters.single_file_adapter import SingleFileAdapter
from models.checkpoint.single_file import VAE_PREFIXES
from models.errors import BadModel
from models.files.weight_header import Tensors

VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "conv1.", "conv2.")  # the last two of Wan's
# Tensors that a decoder has, in any of the layouts: of Stable Diffusion, of diffusers, and of Wan and Qwen-Image.
DECODERS = ("decoder.conv_in.weight", "decoder.conv1.weight", "decoder.conv_in.conv.weight")
IP_PARTS = (("image_proj.", "ip_adapter_proj_model."), ("ip_adapter.", "double_blocks."))
FACE_ID = ("image_proj.perceiver_resampler.", "ip_adapter.0.to_q_lora.", "ip_adapter.1.to_q_lora.")
FACE_ID_LAYER, FULL_FACE_LAYER = "image_proj.proj.0.weight", "image_proj.proj.3.weight"  # the latter reads a picture
INVERSION_NAMES = ("emb_params", "clip_l", "clip_g")
PARAMETER = re.compile(r"\.|^(weight|bias)$")  # of a module, and so no word
MAX_VECTORS = 128  # of a word; a prompt has 75 tokens


def read_vae_file(tensors: Tensors) -> SingleFileAdapter | None:
    """Its class and config are those of the model that it is lent to."""
    prefix = next((prefix for prefix in VAE_PREFIXES if all(name.startswith(prefix) for name in tensors)), "")
    bare = [name.removeprefix(prefix) for name in tensors]
    if not any(name in bare for name in DECODERS) or not all(name.startswith(VAE_PARTS) for name in bare):
        return None
    return SingleFileAdapter("vae", "")


def read_ip_adapter_file(tensors: Tensors) -> SingleFileAdapter | None:
    """Raises `BadModel` for those that need more than a picture."""
    if not all(any(name.startswith(part) for name in tensors) for part in IP_PARTS):
        return None
    by_layers = FACE_ID_LAYER in tensors and FULL_FACE_LAYER not in tensors
    if by_layers or any(name.startswith(FACE_ID) for name in tensors):
        raise BadModel("is an IP-Adapter FaceID, which needs the features of a face that InsightFace computes")
    return SingleFileAdapter("ip_adapter", "")


def read_inversion_file(tensors: Tensors) -> SingleFileAdapter | None:
    named = tensors.keys() <= set(INVERSION_NAMES)
    shapes = [tensor.shape for tensor in tensors.values()]
    is_word = len(shapes) == 1 and not PARAMETER.search(next(iter(tensors)))
    if not shapes or not (named or is_word) or not all(len(shape) in (1, 2) for shape in shapes):
        return None
    if any(len(shape) == 2 and shape[0] > MAX_VECTORS for shape in shapes):
        return None
    return SingleFileAdapter("textual_inversion", "")
