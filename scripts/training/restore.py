"""Restore stage: fills the cache from the models in the repository, so that any later stage can continue from them.

For a machine that has not trained before. It replaces the tokenizer, text encoder, autoencoder and both denoisers in
the cache with the shipped weights (half precision).
"""

import shutil

import torch
from diffusers import AutoencoderKL, CogVideoXTransformer3DModel, PixArtTransformer2DModel
from transformers import T5EncoderModel

from .common import cache_dir
from .export import BUILTIN


def train(_minutes: float = 0, seed: int = 0) -> None:
    cache, scenes, motion = cache_dir(), BUILTIN / "tiny-scenes", BUILTIN / "tiny-motion"
    shutil.copytree(scenes / "tokenizer", cache / "tokenizer", dirs_exist_ok=True)
    T5EncoderModel.from_pretrained(scenes / "text_encoder", dtype=torch.float32).save_pretrained(cache / "text_encoder")
    AutoencoderKL.from_pretrained(scenes / "vae", torch_dtype=torch.float32).save_pretrained(cache / "vae")
    for name, folder, cls in (
        ("image", scenes, PixArtTransformer2DModel),
        ("video", motion, CogVideoXTransformer3DModel),
    ):
        denoiser = cls.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
        denoiser.save_pretrained(cache / name)
        torch.save(denoiser.state_dict(), cache / f"{name}-raw.pt")
    print(f"restore: {cache} holds the shipped weights", flush=True)
