"""Times the decoders of published VAEs: weights as in a checkpoint, with the channels last, in tiles, two jobs at once.

    python benchmarks/vae_decode.py --out vae.json           on a GPU, at real size in bfloat16, with random weights
    python benchmarks/vae_decode.py --out vae.json --tiny    tiny VAEs, also without a GPU

Each VAE decodes one picture of 1024 by 1024 pixels; that of Wan 2.2 a clip of 1280 by 704 pixels and 25 frames. For
each way: the median of some turns, the first call, the peak of allocated bytes beside the weights, and the largest
difference to the first way, relative to the largest value. "least_ms" is what its convolutions and matrix products
would take at the rate of a large matrix product, which was measured in the same run.

With "cudnn benchmark", cuDNN times its algorithms at the first call of each shape instead of guessing. What a load
chooses is in models/loading/memory_format.py; "choice" is its answer for this VAE.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  (needs the path above)
from diffusers import AutoencoderKLFlux2, AutoencoderKLQwenImage  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks.families import vaes  # noqa: E402
from benchmarks.gpu_results import Results, matmul_flops_per_s, median, peak_bytes, reset_peak, timed  # noqa: E402
from models.loading import memory_format  # noqa: E402
from models.loading.memory_format import choose_memory_format, lay_out  # noqa: E402
from pipelines import device as device_module  # noqa: E402
from pipelines.batching.merging import difference  # noqa: E402
from pipelines.batching.tiles import in_tiles  # noqa: E402
from scripts import gpu_dits, gpu_models  # noqa: E402

TURNS = 3
LONG_S = 3.0  # a decode that takes longer is timed once more only


@dataclass(frozen=True, slots=True)
class Case:
    build: Callable[[], Any]
    tiny: Callable[[], Any]
    latents: tuple[int, ...]
    tiny_latents: tuple[int, ...]


CASES = {
    "klein": Case(AutoencoderKLFlux2, vaes.flux_2_vae, (1, 32, 128, 128), (1, 1, 8, 8)),
    "sdxl": Case(lambda: gpu_models.vae(4), vaes.small_vae, (1, 4, 128, 128), (1, 4, 8, 8)),
    "wan22": Case(gpu_dits.wan_2_2_vae, vaes.wan_vae, (1, 48, 7, 44, 80), (1, 16, 2, 8, 8)),
    "qwen": Case(AutoencoderKLQwenImage, vaes.qwen_image_vae, (1, 16, 1, 128, 128), (1, 4, 1, 8, 8)),
    "flux": Case(gpu_models.flow_vae, lambda: vaes.flow_vae(4), (1, 16, 128, 128), (1, 4, 8, 8)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="the JSON file to write, after every measurement")
    parser.add_argument("--seconds", type=float, default=40.0, help="time limit (default: %(default)s)")
    parser.add_argument("--device", default=device_module.default_device(), help="default: %(default)s")
    parser.add_argument("--vaes", nargs="+", choices=CASES, default=[*CASES], help="default: all")
    parser.add_argument("--tiny", action="store_true", help="tiny VAEs")
    arguments = parser.parse_args()

    if arguments.tiny:  # the trial of a load would take a CPU half a minute
        memory_format.LARGEST_SIDE = memory_format.LEAST_SIDE
    device = arguments.device
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    results = Results("vae decode", arguments.out, device, seconds=arguments.seconds, tiny=arguments.tiny)
    flops_per_s = matmul_flops_per_s(device)
    results.record("machine", matmul_tera_flops_per_s=round(flops_per_s / 1e12, 1))
    decoders: dict[str, Decoder] = {}
    for name in arguments.vaes:
        with results.part(name):
            results.check_time(3.0)
            decoders[name] = Decoder(results, name, device, dtype, tiny=arguments.tiny)
            decoders[name].measure(flops_per_s)
        device_module.release_cache()
    for name, decoder in decoders.items():  # afterwards, because timing algorithms may take long
        with results.part(name):
            decoder.measure_more()
        device_module.release_cache()


class Decoder:
    """One VAE and the latents that it decodes."""

    def __init__(self, results: Results, name: str, device: str, dtype: torch.dtype, *, tiny: bool) -> None:
        case = CASES[name]
        self._results, self._name, self._device = results, name, device
        build, shape = (case.tiny, case.tiny_latents) if tiny else (case.build, case.latents)
        self._n_flops = n_flops(build, shape)
        self._vae = gpu_dits.built(device, dtype, build)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self._latents = noise.to(device=device, dtype=dtype)
        self._expected: torch.Tensor | None = None

    @torch.no_grad()
    def measure(self, flops_per_s: float) -> None:
        least_s = self._n_flops / flops_per_s
        self._results.record(self._name, tera_flops=round(self._n_flops / 1e12, 2), least_ms=round(least_s * 1e3, 2))
        self._time("contiguous", self._decode)
        lay_out(self._vae, channels_last=True)
        self._time("channels last", self._decode)
        self._time("channels last, in tiles", self._decode_in_tiles)

    @torch.no_grad()
    def measure_more(self) -> None:
        lay_out(self._vae, channels_last=True)
        self._time("channels last, two at once", self._decode_two)
        self._results.check_time(3.0)
        choice, seconds = timed(self._device, lambda: choose_memory_format(self._vae, self._device))
        self._results.record(self._name, choice=choice and asdict(choice), choice_s=round(seconds, 3))
        lay_out(self._vae, channels_last=True)
        self._time("channels last, cudnn benchmark", self._with_algorithms_timed)
        lay_out(self._vae, channels_last=False)
        self._time("cudnn benchmark", self._with_algorithms_timed)

    def _time(self, way: str, decode: Callable[[], torch.Tensor]) -> None:
        self._results.check_time(2.0)
        before = peak_of_now(self._device)
        reset_peak(self._device)
        output, first_s = timed(self._device, decode)
        peak = peak_bytes(self._device)
        seconds = median(timed(self._device, decode)[1] for _ in range(TURNS if first_s < LONG_S else 1))
        if self._expected is None:
            self._expected = output
        facts = {
            "ms": round(seconds * 1e3, 2),
            "first_ms": round(first_s * 1e3, 1),
            "peak_bytes": None if peak is None else peak - before,
            "distance": round(difference(self._expected, output[: len(self._expected)]), 6),
        }
        self._results.record(self._name, **{way: facts})

    def _decode(self) -> torch.Tensor:
        pixels: torch.Tensor = self._vae.decode(self._latents, return_dict=False)[0]
        return pixels

    def _decode_two(self) -> torch.Tensor:
        pixels: torch.Tensor = self._vae.decode(torch.cat([self._latents] * 2), return_dict=False)[0]
        return pixels

    def _decode_in_tiles(self) -> torch.Tensor:
        with in_tiles(self._vae, self._latents):
            return self._decode()

    def _with_algorithms_timed(self) -> torch.Tensor:
        torch.backends.cudnn.benchmark = True
        try:
            return self._decode()
        finally:
            torch.backends.cudnn.benchmark = False


def n_flops(build: Callable[[], Any], latents: tuple[int, ...]) -> float:
    """Floating-point operations of the decoder's convolutions and products, counted without computing anything."""
    with torch.device("meta"):
        vae, z = build().eval(), torch.empty(latents)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            vae.decode(z, return_dict=False)
    return float(counter.get_total_flops())


def peak_of_now(device: str) -> int:
    """Bytes that are allocated before a measurement: the weights, the latents and the expected picture."""
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else 0


if __name__ == "__main__":
    main()
