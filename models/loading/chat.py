"""Opens a language model with its tokenizer, from a folder or a GGUF. Device thread only."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from models.checkpoint.quantized_bytes import CPU_ONLY
from models.files.weight_files import variant
from models.loading.components import errors_named
from models.loading.options import try_option
from models.loading.quantization.eight_bit import eight_bit_kind, use_eight_bits
from models.loading.quantization.library_configs import chat_quantization
from models.loading.quantization.packed_weights import pack_weights
from models.loading.read_check import check_is_filled, transformers_checked
from models.loading.shared_weights import SharedWeights
from models.loading.tokenizer import open_tokenizer
from models.loading.vocabulary_check import check_vocabulary
from models.spec import ModelSpec
from models.vision_language import is_vision_language

MODEL = "the language model"


def open_chat(
    spec: ModelSpec, path: Path, device: str, dtype: torch.dtype, shared: SharedWeights
) -> tuple[Any, Any, list[str]]:
    """Returns model, tokenizer and sentences about tensors that were left out by intention.

    Weights that another model has on this device already are shared with it. Raises `BadModel`, and what the library
    raises.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, GgufConfig

    auto_class: Any = AutoModelForCausalLM
    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if path.is_file():
        folder, where["gguf_file"] = path.parent, path.name
        options: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True)}
    else:
        folder = path
        if is_vision_language(path):
            auto_class = AutoModelForImageTextToText
        options = {"use_safetensors": True, "variant": variant([path]), **chat_quantization(spec)}
    tokenizer = open_tokenizer(spec, path)
    identity = spec.shareable["model"][0] if "model" in spec.shareable and not spec.load.quantization else None
    model = None if identity is None else shared.borrow(identity, dtype, path, device)
    notes: list[str] = []
    if model is None:
        with errors_named(MODEL, auto_class, quantized=spec.load.quantization is not None):
            with transformers_checked(MODEL) as notes:
                model = auto_class.from_pretrained(
                    folder, dtype=dtype, ignore_mismatched_sizes=True, **options, **where
                )
            check_is_filled(MODEL, model)
        model = model.eval().requires_grad_(False)
        # Before the model moves, so that the device never holds both widths.
        if (kind := eight_bit_kind(spec)) is not None:
            quantize = functools.partial(use_eight_bits, MODEL, model, kind, device)
            notes += try_option("quantization", quantize)
        elif spec.load.quantization == CPU_ONLY and device == "cpu":
            notes += try_option("quantization", functools.partial(pack_weights, MODEL, model))
        model = model.to(device)
    if identity is not None:
        shared.offer(identity, dtype, model)
    notes += check_vocabulary("the tokenizer", tokenizer, model, is_guarded=True)
    return model, tokenizer, notes
