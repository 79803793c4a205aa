"""Training of both denoisers: rectified flow on latents, new captions for every batch, Muon with AdamW, an average.

The network predicts the velocity noise − data at x_s = (1 − s)·data + s·noise (Liu et al. 2022, arXiv:2209.03003).
The level s is drawn logit-normally (Esser et al. 2024, arXiv:2403.03206); timestep = 1000·s, as in the flow schedulers
of diffusers.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scenes import captions
from torch import nn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from .common import Average, Progress, cache_dir, device, mixed_precision
from .muon import Muon
from .text import tokenize

# Mean and standard deviation of the logit of the noise level. What the prompt decides (colours, places, motion) is
# settled at high noise levels. The more values a sample has, the more noise still leaves its content readable: clips
# learn nothing from their captions below a level of about 0.95, so they get far more high levels than pictures do.
Levels = tuple[float, float]
PICTURE_LEVELS: Levels = (0.6, 1.0)
CLIP_LEVELS: Levels = (1.6, 1.3)
EMPTY = 0.1  # share of captions left empty, for classifier-free guidance
# (noisy latents, timestep (batch,), text (batch, tokens, width), mask (batch, tokens)) → velocity
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# (fraction of training done) → batch of latents and their drawings
Draw = Callable[[float], tuple[torch.Tensor, list]]


class Text:
    """The frozen text encoder, and random captions for it to encode."""

    def __init__(self, masked: bool) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(cache_dir() / "tokenizer")
        self.encoder = T5EncoderModel.from_pretrained(cache_dir() / "text_encoder").to(device()).eval()
        self.masked = masked

    @torch.no_grad()
    def encode(self, drawings: list, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        texts = ["" if rng.random() < EMPTY else captions.caption(d, rng)[0].lower() for d in drawings]
        ids, mask = (x.to(device()) for x in tokenize(self.tokenizer, texts))
        return self.encoder(ids, attention_mask=mask if self.masked else None)[0], mask


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices inside the transformer blocks and AdamW for all other weights."""
    hidden = {
        id(p)
        for name, p in model.named_parameters()
        if "transformer_blocks" in name and p.ndim == 2 and min(p.shape) >= 64 and "scale_shift" not in name
    }
    inner = [p for p in model.parameters() if id(p) in hidden]
    outer = [p for p in model.parameters() if id(p) not in hidden]
    return [
        Muon(inner, lr=rate, weight_decay=0.01),
        torch.optim.AdamW(outer, lr=rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def fit(
    name: str,
    model: nn.Module,
    predict: Predict,
    draw: Draw,
    text: Text,
    levels: Levels,
    minutes: float,
    seed: int,
    rate: float = 2e-3,
) -> nn.Module:
    """Trains for `minutes` and returns the averaged model. Continues from `<name>-raw.pt` and saves every 200 steps."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed + 2)
    raw: Path = cache_dir() / f"{name}-raw.pt"
    if raw.exists():
        model.load_state_dict(torch.load(raw, weights_only=True))
    average = Average(model, 0.998)
    chosen = optimizers(model, rate)
    progress = Progress(name, minutes, every=50)
    while progress.fraction < 1:
        warm = min(1.0, (progress.step + 1) / 40)
        decay = min(1.0, (1 - progress.fraction) / 0.5 + 0.01)  # constant for half of the time, then linear to 1 %
        for optimizer in chosen:
            for group in optimizer.param_groups:
                group["lr"] = rate * warm * decay
        latents, drawings = draw(progress.fraction)
        hidden, mask = text.encode(drawings, rng)
        latents = latents.to(device()).float()
        noise = torch.randn_like(latents)
        level = torch.sigmoid(levels[0] + levels[1] * torch.randn(len(latents), device=latents.device))
        share = level.view(-1, *[1] * (latents.ndim - 1))
        with mixed_precision():
            velocity = predict((1 - share) * latents + share * noise, level * 1000, hidden, mask)
        loss = (velocity.float() - (noise - latents)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        average.update(model)
        progress.update(loss=loss.detach())
        if progress.step % 200 == 0:
            save(average.model, model, name)
    save(average.model, model, name)
    return average.model


def save(average: nn.Module, model: nn.Module, name: str) -> None:
    torch.save(model.state_dict(), cache_dir() / f"{name}-raw.pt")
    average.save_pretrained(cache_dir() / name)
