"""Export stage: writes the trained weights as two diffusers folders in half precision below models/builtin."""

import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    ModelMixin,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from .common import cache_dir
from .vae import to_video

BUILTIN = Path(__file__).resolve().parents[2] / "models" / "builtin"


def scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, algorithm_type="dpmsolver++"
    )


def pipelines() -> dict[str, DiffusionPipeline]:
    """Returns the pipelines trained so far, in float32. A pipeline without a trained denoiser is left out."""
    cache = cache_dir()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(cache / "tokenizer")
    encoder = T5EncoderModel.from_pretrained(cache / "text_encoder")
    vae = AutoencoderKL.from_pretrained(cache / "vae")
    made: dict[str, DiffusionPipeline] = {}
    if (cache / "image").is_dir():
        denoiser = PixArtTransformer2DModel.from_pretrained(cache / "image")
        made["tiny-scenes"] = PixArtSigmaPipeline(tokenizer, encoder, vae, denoiser, scheduler())
    if (cache / "video").is_dir():
        denoiser = CogVideoXTransformer3DModel.from_pretrained(cache / "video")
        made["tiny-motion"] = CogVideoXPipeline(tokenizer, encoder, to_video(vae), denoiser, scheduler())
    return made


def train(_minutes: float = 0, seed: int = 0) -> None:
    for name, pipeline in pipelines().items():
        folder = BUILTIN / name
        card = (folder / "README.md").read_bytes() if (folder / "README.md").exists() else None
        shutil.rmtree(folder, ignore_errors=True)
        for part in pipeline.components.values():
            if isinstance(part, ModelMixin):
                part.register_to_config(_name_or_path=name)  # and not its path on this machine
        pipeline.to(torch.float16).save_pretrained(folder)
        if card is not None:
            (folder / "README.md").write_bytes(card)
        n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"export: {name} {n_bytes / 2**20:.1f} MiB", flush=True)
