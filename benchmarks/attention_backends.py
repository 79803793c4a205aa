"""Times every attention kernel at the shapes of the published models, and convolutions in both memory formats.

    python benchmarks/attention_backends.py --out attention.json           on a GPU, in bfloat16
    python benchmarks/attention_backends.py --out attention.json --tiny    tiny shapes, also without a GPU

"native" is torch's own choice; the others are those that a load chooses from (pipelines/diffusion/attention_choice.py).
A VAE decodes a picture of 1024 by 1024 pixels, and the U-Net of SDXL makes a step of one, with their weights as they
are in a checkpoint (contiguous) and with the channels last.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  (needs the path above)

from benchmarks.families import FAMILIES, vaes  # noqa: E402
from benchmarks.gpu_results import Results, median, peak_bytes, reset_peak, timed  # noqa: E402
from pipelines import device as device_module  # noqa: E402
from pipelines.diffusion.attention_choice import Shape, measure  # noqa: E402
from scripts import gpu_dits, gpu_models  # noqa: E402

SHAPES = {  # heads, values of a head, tokens
    "flux 1024²": Shape(24, 128, 4608),
    "flux 512²": Shape(24, 128, 1536),
    "sdxl 1024², 64² latents": Shape(10, 64, 4096),
    "sdxl 1024², 32² latents": Shape(20, 64, 1024),
    "z-image 1024²": Shape(30, 128, 4608),
    "qwen-image 1024²": Shape(24, 128, 4352),
    "wan 2.2 5b 720p, 25 frames": Shape(24, 128, 6160),
    "wan 2.2 5b 720p, 121 frames": Shape(24, 128, 27_280),
}
TURNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="the JSON file to write, after every measurement")
    parser.add_argument("--seconds", type=float, default=40.0, help="time limit (default: %(default)s)")
    parser.add_argument("--device", default=device_module.default_device(), help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes")
    arguments = parser.parse_args()

    device = arguments.device
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    results = Results("attention", arguments.out, device, seconds=arguments.seconds, tiny=arguments.tiny)
    for name, shape in SHAPES.items():
        with results.part("attention"):
            results.check_time(2.0)
            measured = Shape(2, 32, 64) if arguments.tiny else shape
            seconds = measure(measured, dtype, device)
            flops = 4 * measured.heads * measured.head_dim * measured.tokens**2
            fastest = min(seconds, key=lambda backend: seconds[backend])
            facts = {backend: round(value * 1e3, 4) for backend, value in seconds.items()}
            rate = round(flops / seconds[fastest] / 1e12, 1)
            results.record("attention", **{name: {"ms": facts, "fastest": fastest, "tera_flops_per_s": rate}})
    for name, compare in {"vae": decode_in_both_formats, "sdxl unet": step_in_both_formats}.items():
        with results.part(name):
            results.check_time(5.0)
            compare(results, device, dtype, arguments.tiny)
        gc.collect()
        device_module.release_cache()


def decode_in_both_formats(results: Results, device: str, dtype: torch.dtype, tiny: bool) -> None:
    vae = vaes.small_vae() if tiny else gpu_dits.built(device, dtype, gpu_models.flow_vae)
    vae = vae.to(device=device, dtype=dtype).eval()
    side = 8 if tiny else 128
    latents = noise(device, dtype, 1, vae.config.latent_channels, side, side)
    in_both_formats(results, "vae", device, vae, lambda: vae.decode(latents, return_dict=False)[0])


def step_in_both_formats(results: Results, device: str, dtype: torch.dtype, tiny: bool) -> None:
    if tiny:
        unet = FAMILIES["StableDiffusionXLPipeline"].build().unet.to(device)
    else:
        unet = gpu_dits.built(device, dtype, lambda: gpu_models.stable_diffusion_xl().unet)
    config = unet.config
    side = 8 if tiny else 128
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    added = {"text_embeds": noise(device, dtype, 1, pooled), "time_ids": noise(device, dtype, 1, 6)}
    latents = noise(device, dtype, 1, config.in_channels, side, side)
    text = noise(device, dtype, 1, 77, config.cross_attention_dim)

    def step() -> torch.Tensor:
        output: torch.Tensor = unet(latents, 500, text, added_cond_kwargs=added, return_dict=False)[0]
        return output

    in_both_formats(results, "sdxl unet", device, unet, step)


@torch.no_grad()
def in_both_formats(
    results: Results, part: str, device: str, module: torch.nn.Module, run: Callable[[], torch.Tensor]
) -> None:
    outputs: list[torch.Tensor] = []
    for name, memory_format in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
        module.to(memory_format=memory_format)
        output, first_s = timed(device, run)
        outputs.append(output.float())
        reset_peak(device)
        seconds = median(timed(device, run)[1] for _ in range(TURNS))
        facts = {"s": round(seconds, 5), "first_s": round(first_s, 3), "peak_bytes": peak_bytes(device)}
        results.record(part, **{name: facts})
    one, other = outputs
    results.record(part, distance=round(float((one - other).norm() / one.norm()), 6))


def noise(device: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype)


if __name__ == "__main__":
    main()
