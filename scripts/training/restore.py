"""Restore stage: the models that are committed become what the cache holds, so that any later stage can go on from them.

For a machine that has not trained before: the tokenizer, the text encoder, the autoencoder and both denoisers are taken
as they were shipped (half precision), in place of whatever the cache held.
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
    print(f"restore: {cache} holds what is shipped", flush=True)
