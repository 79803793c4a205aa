"""Times the choice of tokens for a batch of chats: torch's operators, our own kernels, and those recorded as graphs.

    python benchmarks/sampling.py --device cuda --out sampling.json

For 1, 8 and 32 rows with a vocabulary of 128,256: milliseconds until the host goes on, and milliseconds that the device
takes. Where torch's operators make the host wait, the latter contains the time in which the device waits for the host.
Medians of the variants in turns; the file is written after each case. Needs no model; on a CPU there are torch's
operators alone, and cases are left out when the time is over.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from pipelines import device as devices
from pipelines.chat.sampling.batch_sampler import BatchSampler
from tests.support.sampled_chat import SampledChat, chat

VOCABULARY = 128_256  # of Llama 3
ROWS = (1, 8, 32)
PEAKED, FLAT = "peaked", "flat"
CASES: dict[str, tuple[str, dict[str, Any]]] = {  # logits, settings
    "greedy": (FLAT, {}),
    "temperature": (FLAT, {"temperature": 0.8}),
    "top-p, narrow": (PEAKED, {"temperature": 0.8, "top_p": 0.9}),
    "top-p, wide": (FLAT, {"temperature": 0.8, "top_p": 0.9}),
    "top-k and top-p": (PEAKED, {"temperature": 0.8, "top_k": 40, "top_p": 0.9}),
    "penalties": (PEAKED, {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.2}),
}
WARM_UP = 2  # rounds that do not count: the first copies the settings to the device
GRACE_S = 4.0  # in which cases are begun although the time is over
N_REPLY = 200  # tokens that each reply has at the start
SLEEP_CYCLES = 6_000_000  # about 3 ms, in which the host launches what is measured behind it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=devices.default_device())
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for all measurements together")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    head = {"device": devices.name(arguments.device), "torch": torch.__version__, "vocabulary": VOCABULARY}
    buffer = torch.zeros(max(ROWS), VOCABULARY, device=device)
    variants = variants_on(device, buffer)
    results: list[dict[str, Any]] = []
    print(f"{'ms of the host and of the device':34}" + "".join(f"{name:>20}" for name in variants), flush=True)
    share = arguments.seconds / len(CASES) / len(ROWS)
    began = time.perf_counter()
    for n_rows in ROWS:
        for name in CASES:
            if time.perf_counter() - began > arguments.seconds + GRACE_S:
                print(f"{n_rows:3} rows, {name:25}left out")
                continue
            times = compare(name, n_rows, buffer, variants, share)
            results.append({"case": name, "rows": n_rows, **times})
            cells = "".join(f"{each['host_ms']:11.3f}{each['device_ms']:9.3f}" for each in times.values())
            print(f"{n_rows:3} rows, {name:25}{cells}", flush=True)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps({**head, "results": results}, indent=1) + "\n")


def variants_on(device: torch.device, buffer: Tensor) -> dict[str, BatchSampler]:
    """Samplers without chats, by name."""
    plain = BatchSampler({}, device)
    kernels = plain._kernels
    plain._kernels = None
    variants = {"torch": plain}
    if kernels is None:
        print(*plain.notes)
        return variants
    variants |= {"kernels": BatchSampler({}, device), "graph": BatchSampler({}, device)}
    began = time.perf_counter()
    print(*variants["graph"].record(buffer, devices.priority_stream(device)), end="")
    print(f"graphs recorded in {time.perf_counter() - began:.2f} s", flush=True)
    return variants


@torch.inference_mode()
def compare(
    case: str, n_rows: int, buffer: Tensor, variants: dict[str, BatchSampler], seconds: float
) -> dict[str, dict[str, Any]]:
    """Milliseconds of one choice by each variant, of the host and of the device."""
    kind, settings = CASES[case]
    logits = logits_of(kind, n_rows, buffer.device)
    batches = {name: chats_of(n_rows, settings) for name in variants}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    began = time.perf_counter()
    rounds = 0
    while rounds < WARM_UP + 1 or time.perf_counter() - began < seconds:
        rounds += 1
        for name, sampler in variants.items():
            sampler._chats = batches[name]  # type: ignore[assignment]
            ids = [*batches[name]]
            both = []
            for timed in (host_ms, device_ms):
                buffer[:n_rows].copy_(logits)
                both.append(timed(lambda s=sampler, i=ids: s(i, buffer[:n_rows]), buffer.device))
                for one in batches[name].values():
                    one.tokens.append(N_REPLY)  # goes on to the next token, as the lane does
            spent[name].append((both[0], both[1]))
    for sampler in variants.values():
        sampler.forget()
    return {name: summary(values[WARM_UP:]) for name, values in spent.items()}


def summary(values: list[tuple[float, float]]) -> dict[str, Any]:
    host, device = zip(*values, strict=True)
    return {"host_ms": statistics.median(host), "device_ms": statistics.median(device), "rounds": len(values)}


def logits_of(kind: str, n_rows: int, device: torch.device) -> Tensor:
    """PEAKED: as of a trained model, by Zipf's law. FLAT: as of random weights."""
    noise = torch.randn(n_rows, VOCABULARY, generator=torch.Generator().manual_seed(0)).to(device)
    if kind == PEAKED:
        noise = -1.5 * (noise.argsort(-1) + 1.0).log() + 0.01 * noise
    return noise


def chats_of(n_rows: int, settings: dict[str, Any]) -> dict[str, SampledChat]:
    return {str(row): chat(*range(N_REPLY), id=str(row), seed=row, **settings) for row in range(n_rows)}


def host_ms(choose: Callable[[], Any], device: torch.device) -> float:
    """Until the call returns."""
    devices.finish(str(device))
    began = time.perf_counter()
    choose()
    return (time.perf_counter() - began) * 1e3


def device_ms(choose: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        return host_ms(choose, device)
    devices.finish(str(device))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(SLEEP_CYCLES)
    begin.record()
    choose()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


if __name__ == "__main__":
    main()
