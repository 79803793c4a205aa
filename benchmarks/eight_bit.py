"""Compares models in bfloat16 with the same in eight bits: bytes held, seconds of a forward, distance of the outputs.

    python benchmarks/eight_bit.py --out eight_bit.json                      FLUX.1-dev and Llama 1B, on a GPU
    python benchmarks/eight_bit.py --out eight_bit.json --models zimage      others of benchmarks/real_models.py
    python benchmarks/eight_bit.py --out eight_bit.json --tiny               tiny models, also without a GPU

The forward of a picture model is the first one that its stock pipeline makes, that of the language model reads a prompt
of 512 tokens, or one token of one or of eight chats in a CUDA graph, as the server decodes. Every kind runs eagerly and
with its repeated blocks compiled. The distance is the relative L2 distance from the bfloat16 output; weights are
random, so it is that of rounding alone. "kernels" are the matrix multiplications by themselves, in microseconds.
Where torchao is installed, its fp8 with the same scales runs as well.
"""

from __future__ import annotations

import argparse
import functools
import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  (needs the path above)

from benchmarks import real_models  # noqa: E402
from benchmarks.gpu_results import Results, median, timed  # noqa: E402
from models.checkpoint import quantized_bytes  # noqa: E402
from models.loading.quantization.eight_bit import use_eight_bits  # noqa: E402
from pipelines import device as device_module  # noqa: E402
from pipelines.quantized.eight_bit_linear import quantized_rows  # noqa: E402
from scripts import gpu_dits  # noqa: E402
from scripts.gpu_chats import llama_3_2_1b  # noqa: E402
from server.process.libraries import stop_compilers  # noqa: E402
from tests.support.lanes.lane_play import direct  # noqa: E402
from tests.support.lanes.tiny_chat import tiny_model  # noqa: E402

LLAMA = "llama_1b"
SHAPES = {  # rows, inputs, outputs
    "flux attention": (4608, 3072, 3072),
    "flux feed-forward": (4608, 3072, 12_288),
    "flux feed-forward back": (4608, 12_288, 3072),
    "llama, 8 chats": (8, 2048, 8192),
    "llama, 1 chat": (1, 2048, 8192),
}
RUNS, RUNS_S = 10, 1.5  # forwards of a measurement, at most so many and for about so long
COMPILE_S = 25.0  # that compiling and measuring one kind is assumed to take

Forward = Callable[[], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="the JSON file to write, after every measurement")
    parser.add_argument("--models", nargs="+", choices=[*real_models.MODELS, LLAMA], default=["flux", LLAMA])
    parser.add_argument("--kinds", nargs="+", choices=["fp8", "int8"], default=None, help="default: fp8; int8 on a CPU")
    parser.add_argument("--seconds", type=float, default=90.0, help="time limit (default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--device", default=device_module.default_device(), help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="tiny models")
    arguments = parser.parse_args()

    device = arguments.device
    results = Results("eight bits", arguments.out, device, seconds=arguments.seconds, tiny=arguments.tiny)
    kinds = arguments.kinds or (["fp8"] if device_module.supports_fp8(device) else ["int8"])
    if arguments.tiny:
        quantized_bytes.SMALLEST_SIDE = 16
    with results.part("kernels"):
        kernels(results, device, arguments.tiny)
    for name in arguments.models:
        with results.part(name):
            Comparison(name, results, device, arguments.tiny, compiled=not arguments.eager).run(kinds)
        gc.collect()
        device_module.release_cache()
    stop_compilers()


def kernels(results: Results, device: str, tiny: bool) -> None:
    dtype = torch.bfloat16
    for name, (n_rows, n_in, n_out) in SHAPES.items():
        if tiny:
            n_rows, n_in, n_out = min(n_rows, 32), 64, 128
        rows = torch.randn(n_rows, n_in, device=device, dtype=dtype)
        weight = torch.randn(n_out, n_in, device=device, dtype=dtype)
        found = {"bfloat16": microseconds(device, lambda: torch.nn.functional.linear(rows, weight))}  # noqa: B023
        found["quantize rows"] = microseconds(device, lambda: quantized_rows(rows, "fp8"))  # noqa: B023
        if device_module.supports_fp8(device):
            values, scale = quantized_rows(rows, "fp8")
            stored, stored_scale = quantized_rows(weight, "fp8")
            one = torch.ones((), device=device)
            for label, scales in (("rows", (scale, stored_scale.t())), ("tensor", (one, one))):
                product = functools.partial(
                    torch._scaled_mm, values, stored.t(), *scales, out_dtype=dtype, use_fast_accum=True
                )
                found[f"fp8, a scale per {label}"] = microseconds(device, product)
        results.record("kernels", **{f"{name}, {kind}": round(value, 1) for kind, value in found.items()})


def microseconds(device: str, work: Callable[[], Any], times: int = 20) -> float:
    """Of one call, on a device that is kept busy."""
    work()
    return min(timed(device, lambda: [work() for _ in range(times)])[1] for _ in range(3)) / times * 1e6


class Comparison:
    """One model, whose layers are replaced and put back."""

    def __init__(self, name: str, results: Results, device: str, tiny: bool, *, compiled: bool) -> None:
        self.name, self.device, self.compiled = name, device, compiled
        self._results = results
        self.is_chat = name == LLAMA
        built = chat_model(device, tiny) if self.is_chat else picture_model(name, device, tiny)
        self.model, self.forwards = built
        self.expected = {label: forward() for label, forward in self.forwards.items()}

    def record(self, **facts: Any) -> None:
        self._results.record(self.name, **facts)

    def run(self, kinds: list[str]) -> None:
        self.measure("bfloat16")
        for kind in kinds:
            with self.originals_put_back(), self._results.part(f"{self.name}, {kind}"):
                notes = use_eight_bits("the model", self.model, kind, self.device)  # type: ignore[arg-type]
                self.record(**{f"{kind}, note": notes[0]})
                self.measure(kind)
        if find_spec("torchao") is not None and device_module.supports_fp8(self.device):
            with self.originals_put_back(), self._results.part(f"{self.name}, torchao"):
                self.use_torchao()
                self.measure("torchao fp8")

    def measure(self, kind: str) -> None:
        self.record(**{f"{kind}, bytes": held_bytes(self.model)})
        self.measure_forwards(kind)
        if self.compiled:
            with self.compiled_blocks(), self._results.part(f"{self.name}, {kind}"):
                self._results.check_time(COMPILE_S if self.device.startswith("cuda") else 0.0)
                _, seconds = timed(self.device, lambda: [forward() for forward in self.forwards.values()])
                self.record(**{f"{kind}, compile_s": round(seconds, 1)})
                self.measure_forwards(f"{kind}, compiled")

    def measure_forwards(self, kind: str) -> None:
        for label, forward in self.forwards.items():
            output = forward().float()
            expected = self.expected[label].float()
            distance = float((output - expected).norm() / expected.norm())
            facts = {"s": round(seconds_of(forward, self.device), 6), "distance": round(distance, 4)}
            if self.is_chat and self.device.startswith("cuda"):
                with self._results.part(f"{self.name}, {kind}, graph"):
                    facts["s in a graph"] = round(seconds_of(in_graph(forward), self.device), 6)
            self.record(**{f"{kind}, {label}": facts})

    @contextmanager
    def compiled_blocks(self) -> Iterator[None]:
        blocks = repeated_blocks(self.model)
        for block in blocks:
            block.compile(fullgraph=True, dynamic=True)
        try:
            yield
        finally:
            for block in blocks:
                block._compiled_call_impl = None
            torch._dynamo.reset()

    @contextmanager
    def originals_put_back(self) -> Iterator[None]:
        linears = {name: part for name, part in self.model.named_modules() if isinstance(part, torch.nn.Linear)}
        weights = {name: linear.weight for name, linear in linears.items()}
        try:
            yield
        finally:
            for name, linear in linears.items():
                linear.weight = weights[name]
                self.model.set_submodule(name, linear)
            gc.collect()

    def use_torchao(self) -> None:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

        def taken(part: torch.nn.Module, name: str) -> bool:
            cls = type(self.model).__name__
            is_linear = type(part) is torch.nn.Linear
            return is_linear and quantized_bytes.runs_in_eight_bits(cls, name, tuple(part.weight.shape))

        quantize_(self.model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()), filter_fn=taken)


def picture_model(name: str, device: str, tiny: bool) -> tuple[Any, dict[str, Forward]]:
    """Returns the denoiser, and its first forward in a job of the usual size."""
    if tiny:
        pipeline = real_models.build(name, device, tiny=True)
    else:
        build = real_models.MODELS[name].build
        if "text_layers" in inspect.signature(build).parameters:  # the text encoder is not measured
            build = functools.partial(build, text_layers=1)
        pipeline = gpu_dits.built(device, torch.bfloat16, build)
        pipeline.set_progress_bar_config(disable=True)
    denoiser = real_models.denoiser(pipeline)
    calls: list[tuple[Any, Any]] = []

    class Enough(Exception):
        pass

    def keep(_: Any, args: Any, kwargs: Any) -> None:
        calls.append((args, {**kwargs, "return_dict": False}))
        raise Enough

    hook = denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        direct(pipeline, real_models.request(name, "a", 2, tiny=tiny))
    except Enough:
        pass
    finally:
        hook.remove()
    ((args, kwargs),) = calls

    @torch.no_grad()
    def forward() -> torch.Tensor:
        output = denoiser(*args, **kwargs)[0]
        result: torch.Tensor = torch.stack(output) if isinstance(output, list) else output
        return result

    return denoiser, {"forward": forward}


def chat_model(device: str, tiny: bool) -> tuple[Any, dict[str, Forward]]:
    model = tiny_model().to(device) if tiny else gpu_dits.built(device, torch.bfloat16, llama_3_2_1b)
    vocabulary = model.config.vocab_size

    def forward(chats: int, tokens: int) -> Forward:
        noise = torch.Generator().manual_seed(chats)
        ids = torch.randint(3, vocabulary, (chats, tokens), generator=noise).to(device)

        @torch.no_grad()
        def run() -> torch.Tensor:
            logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
            return logits

        return run

    prompt = 32 if tiny else 512
    return model, {"1 chat": forward(1, 1), "8 chats": forward(8, 1), "prompt": forward(1, prompt)}


def repeated_blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    names = getattr(model, "_repeated_blocks", None) or getattr(model, "_no_split_modules", None) or ()
    return [part for part in model.modules() if type(part).__name__ in names]


def in_graph(forward: Forward) -> Callable[[], Any]:
    """The forward as one CUDA graph, so that the time is that of the kernels and not of launching them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    return graph.replay


def seconds_of(run: Callable[[], Any], device: str) -> float:
    run()
    found = [timed(device, run)[1]]
    while len(found) < RUNS and sum(found) < RUNS_S:
        found.append(timed(device, run)[1])
    return median(found)


def held_bytes(model: torch.nn.Module) -> int:
    """Bytes of the weights; those of torchao's tensors are inside of them."""
    total = 0
    for tensor in (*model.parameters(), *model.buffers()):
        inner = getattr(tensor, "__tensor_flatten__", None)
        names = inner()[0] if inner is not None else []
        total += sum(getattr(tensor, name).nbytes for name in names) if names else tensor.nbytes
    return total


if __name__ == "__main__":
    main()
