"""Autoencoder stage: trains one network for pictures and video frames, with latents eight times smaller each way.

It is trained as a 2-D `AutoencoderKL` on crops of drawings. `to_video` copies the same weights into the class that the
video pipeline needs. The causal 3-D convolutions there get zeros for every tap but the last (the present frame), and
the spatially conditioned norms get a constant condition, so that each frame is decoded as by the 2-D network.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderKLCogVideoX
from scenes.attributes import random_drawing
from scenes.draw import clip

from .common import LATENT_CHANNELS, SIZES, Average, Progress, cache_dir, device, mixed_precision
from .muon import Muon

CHANNELS = (16, 24, 48, 64)
CROP = 64  # pixels
KL_WEIGHT = 2e-4
RATE = 2.5e-3


def make() -> AutoencoderKL:
    """Returns an untrained network that can represent flat colours: see `anchor`."""
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,
        sample_size=128,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    anchor(model)
    return model


@torch.no_grad()
def anchor(model: torch.nn.Module) -> None:
    """Initializes the network so that every norm sees some constant channels.

    A norm over a flat colour removes the colour, because the statistics are the colour. With one group for all channels
    and some constant channels, a colour becomes a direction among the channels, which a norm preserves.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.zeros_(layer.bias)
            if "conv2" in name:
                layer.weight.mul_(0.5)
            elif name.endswith("conv_in"):
                layer.bias[0::4] = 1.0
                layer.bias[1::4] = -1.0


def to_pixels(frames: np.ndarray) -> torch.Tensor:
    """(count, height, width, 3) bytes → (count, 3, height, width) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def crops(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Returns random crops of random drawings at random moments."""
    result = []
    while len(result) < count:
        width, height = SIZES[str(rng.choice(list(SIZES)))]
        for frame in clip(random_drawing(rng, video=True, shape_share=0.3), width, height, 2):
            for _ in range(2):
                x, y = rng.integers(0, width - CROP + 1), rng.integers(0, height - CROP + 1)
                result.append(frame[y : y + CROP, x : x + CROP])
    return to_pixels(np.stack(result[:count]))


def differences(output: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the mean absolute error of the pixels, and of the differences between neighboring pixels (the edges)."""
    edges = sum((output.diff(dim=side) - pixels.diff(dim=side)).abs().mean() for side in (-1, -2))
    return (output - pixels).abs().mean(), edges


def make_optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Returns Muon for the convolutions between features and AdamW for all other weights."""
    filters = {id(p) for p in model.parameters() if p.ndim == 4 and min(p.shape[:2]) > 3}
    return [
        Muon([p for p in model.parameters() if id(p) in filters], RATE),
        torch.optim.AdamW([p for p in model.parameters() if id(p) not in filters], lr=RATE, weight_decay=0.0),
    ]


def set_rate(optimizers: list[torch.optim.Optimizer], progress: Progress) -> None:
    """Warms the rate up, keeps it, and from 40 % of the time on lowers it to 0.5 %."""
    rate = RATE * min(1, (progress.step + 1) / 50) * min(1.0, (1 - progress.fraction) / 0.6 + 0.005)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def train(minutes: float, seed: int = 0, batch_size: int = 12) -> None:
    """Trains and saves to the cache folder `vae`, with the scaling factor that gives latents of unit variance."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    saved = cache_dir() / "vae"  # training continues from the weights of an earlier run
    model = AutoencoderKL.from_pretrained(saved) if saved.is_dir() else make()
    model = model.to(device(), memory_format=torch.channels_last)
    average = Average(model, 0.995)
    optimizers = make_optimizers(model)
    progress = Progress("vae", minutes)
    while progress.fraction < 1:
        set_rate(optimizers, progress)
        pixels = crops(rng, batch_size).to(device(), memory_format=torch.channels_last)
        with mixed_precision():
            posterior = model.encode(pixels).latent_dist
            output = model.decode(posterior.sample()).sample.float()
        error, edges = differences(output, pixels)
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        model.zero_grad()
        (error + 2 * edges + KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(model)
        progress.update(error=error.detach(), edges=edges.detach(), kl=kl.detach())
    vae = average.model
    with torch.no_grad():
        pixels = crops(rng, 256).to(device())
        latents = vae.encode(pixels).latent_dist.mean
        error = (vae.decode(latents).sample - pixels).abs().mean()
    print(f"vae: latents' spread {latents.std():.3f}, mean absolute error {error:.4f} (of 2)")
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 4))
    vae.save_pretrained(cache_dir() / "vae")


def to_video(vae: AutoencoderKL) -> AutoencoderKLCogVideoX:
    """Returns the same autoencoder as an `AutoencoderKLCogVideoX` that treats frames one by one."""
    video = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=CHANNELS,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=1,
        temporal_compression_ratio=1,
        sample_height=SIZES["16:9"][1],
        sample_width=SIZES["16:9"][0],
        scaling_factor=vae.config.scaling_factor,
    )
    source, target = vae.state_dict(), {}
    for name, value in video.state_dict().items():
        if ".conv_y." in name or ".conv_b." in name:  # no condition: scale 1, shift 0
            is_scale = ".conv_y." in name and name.endswith("bias")
            target[name] = torch.ones_like(value) if is_scale else torch.zeros_like(value)
            continue
        plain = name.replace(".norm_layer.", ".").replace("norm_out.", "conv_norm_out.")
        for causal in ("conv_in", "conv_out", "conv1", "conv2"):
            plain = plain.replace(f"{causal}.conv.", f"{causal}.")
        weight = source[plain]
        if value.ndim == 5:
            taps = torch.zeros_like(value)
            taps[:, :, -1] = weight
            weight = taps
        target[name] = weight.clone()
    video.load_state_dict(target)
    return video
