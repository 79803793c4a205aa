"""Times the choice of tokens for a batch of chats, against the one row by row that it replaced, in turns.

    python benchmarks/sampling.py --device cuda --out sampling.json

For 1, 8 and 32 rows of random logits with a vocabulary of 128,256: seconds until the host goes on, and until the tokens
are there. Medians; ends after `--seconds` with what it has. Needs no model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from pipelines import device as devices
from pipelines.chat.sampling.batch_sampler import BatchSampler
from tests.support import row_sampling
from tests.support.sampled_chat import SampledChat, chat

VOCABULARY = 128_256  # of Llama 3
ROWS = (1, 8, 32)
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 1.0},
    "top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "penalties": {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    "log probabilities": {"n_logprobs": 5},
}
WARM_UP = 2  # calls that do not count: the first copies the settings to the device
N_REPLY = 200  # tokens that each reply has at the start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=devices.default_device())
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for all measurements together")
    arguments = parser.parse_args()
    results = measured(arguments.device, arguments.seconds)
    if arguments.out is not None:
        head = {"device": devices.name(arguments.device), "torch": torch.__version__, "vocabulary": VOCABULARY}
        arguments.out.write_text(json.dumps({**head, "results": results}, indent=1) + "\n")


@torch.inference_mode()
def measured(device: str, seconds: float) -> list[dict[str, Any]]:
    """Each of the measurements gets the same share of the time."""
    cases = [(name, n_rows) for n_rows in ROWS for name in SETTINGS]
    print(f"{'':18} {'rows':>4} {'old ms':>8} {'new ms':>8} {'host ms':>8} {'ratio':>6} {'calls':>5}")
    results = []
    for name, n_rows in cases:
        old, new, host = compare(SETTINGS[name], n_rows, torch.device(device), seconds / len(cases))
        result = {"settings": name, "rows": n_rows, "old_ms": old, "new_ms": new, "host_ms": host[0], "calls": host[1]}
        results.append(result)
        print(f"{name:18} {n_rows:4} {old:8.3f} {new:8.3f} {host[0]:8.3f} {old / new:6.1f} {host[1]:5}", flush=True)
    return results


def compare(
    settings: dict[str, Any], n_rows: int, device: torch.device, seconds: float
) -> tuple[float, float, tuple[float, int]]:
    """Milliseconds of one choice: row by row; in a batch; of the host in a batch, with the number of calls."""
    chats = [chat(*range(N_REPLY), id=str(row), seed=row, **settings) for row in range(n_rows)]
    ids = [one.id for one in chats]
    sampler = BatchSampler({one.id: one for one in chats}, device)  # type: ignore[misc]
    generator = torch.Generator().manual_seed(0)
    rows = cycle([(torch.randn(n_rows, VOCABULARY, generator=generator) * 3).to(device) for _ in range(2)])
    scratch = torch.empty(n_rows, VOCABULARY, device=device)
    old, new, host = [], [], []
    began = time.perf_counter()
    while len(host) < WARM_UP + 1 or time.perf_counter() - began < seconds:
        logits = next(rows)
        scratch.copy_(logits)
        old.append(timed(lambda: row_sampling.choose_tokens(chats, scratch), device)[1])
        scratch.copy_(logits)
        once = timed(lambda: sampler(ids, scratch), device)
        host.append(once[0])
        new.append(once[1])
        grow(chats, sampler)
    kept = slice(WARM_UP, None)
    return (
        statistics.median(old[kept]),
        statistics.median(new[kept]),
        (statistics.median(host[kept]), len(host[kept])),
    )


def timed(choose: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Milliseconds until the call returns, and until the tokens are on the host."""
    devices.finish(str(device))
    began = time.perf_counter()
    tokens = choose()
    returned = time.perf_counter()
    tokens.tolist()
    return (returned - began) * 1e3, (time.perf_counter() - began) * 1e3


def grow(chats: list[SampledChat], sampler: BatchSampler) -> None:
    """Go on to the next token, as the lane does."""
    sampler.take_logprobs()
    for one in chats:
        one.tokens.append(N_REPLY)


if __name__ == "__main__":
    main()
