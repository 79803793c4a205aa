"""Shared by the benchmarks: models, requests, timing, and the table of results."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  (needs the path above)

from benchmarks.stand_in import STAND_IN_CALL, stand_in  # noqa: E402, F401  (for the benchmarks that import this file)
from models.catalogue import Catalogue  # noqa: E402
from models.loading.prompt_reader import PromptReader  # noqa: E402
from models.spec import ModelSpec  # noqa: E402
from pipelines.chat_interface import ChatRequest, Message, Prompt, PromptOptions  # noqa: E402
from pipelines.diffusion_interface import DiffusionRequest  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "agentname"
CHAT = "smollm2-135m"
PROMPTS = (
    "A futuristic city at night",
    "Ocean waves at sunset",
    "a red circle on a blue background",
    "mountains at noon",
    "a green star on the left",
    "a forest at sunrise",
    "a desert at night",
    "a yellow heart at the top",
)
QUESTIONS = (
    "What can you help me with?",
    "Write a sentence about the sea.",
    "What is the capital of France?",
    "Tell me a fact about cats.",
    "Why is the sky blue?",
    "How do I boil an egg?",
    "Name three colours.",
    "What is a computer?",
)


@dataclass
class Report:
    """Measured values, each with the bar that it has to reach, if there is one."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, what: str, value: float | str, unit: str = "", *, least: float | None = None, most: float | None = None
    ) -> None:
        """Prints the value and records it. It misses its bar below `least` or above `most`."""
        bar = f"≥ {least:g}" if least is not None else f"≤ {most:g}" if most is not None else ""
        ok = None
        if isinstance(value, float | int) and bar:
            ok = value >= least if least is not None else value <= most  # type: ignore[operator]  # one is given
        self.rows.append({"what": what, "value": value, "unit": unit, "bar": bar, "ok": ok})
        shown = f"{value:.4g}" if isinstance(value, float) else value
        verdict = {None: "", True: "ok", False: "MISSED"}[ok]
        print(f"{what:58} {shown:>12} {unit:6} {bar:9} {verdict}", flush=True)

    def save(self, out: Path | None) -> None:
        if out is not None:
            machine = {
                "cpu": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "torch": torch.__version__,
            }
            out.write_text(json.dumps({"title": self.title, "machine": machine, "rows": self.rows}, indent=1))


def arguments(doc: str, *more: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write the results to this file")
    for name, options in more:
        parser.add_argument(name, **options)
    return parser.parse_args()


def catalogue() -> Catalogue:
    with tempfile.TemporaryDirectory() as data_dir:
        return Catalogue.open(data_dir=Path(data_dir), cache_dir=CACHE)


def built_in(kind: str) -> ModelSpec | None:
    """Returns the built-in model of this kind, or None if it has not been fetched."""
    for spec in catalogue().specs():
        if spec.type == kind and spec.path is not None and spec.path.exists():
            return spec
    return None


def diffusion_request(spec: ModelSpec, name: str, i: int, **values: Any) -> DiffusionRequest:
    """Returns the i-th of a series of different requests, with the model's own defaults."""
    ratio = "1:1" if spec.type == "image" else "16:9"
    width, height = spec.sizes.get(ratio, (spec.defaults.width, spec.defaults.height))
    usual = {
        "prompt": PROMPTS[i % len(PROMPTS)],
        "negative_prompt": spec.defaults.negative_prompt,
        "width": width,
        "height": height,
        "num_frames": spec.defaults.num_frames if spec.type == "video" else None,
        "fps": spec.defaults.fps,
        "steps": spec.defaults.steps or 20,
        "guidance_scale": spec.defaults.guidance_scale,
        "seed": 1000 + i,
        "call": spec.call,
    }
    return DiffusionRequest(id=name, **{**usual, **values})


def chat_request(i: int, max_tokens: int = 48, name: str | None = None, text: str = "") -> ChatRequest:
    """A chat of the built-in model; `text` goes before the question."""
    prompt = built_in_prompt(text + QUESTIONS[i % len(QUESTIONS)])
    return ChatRequest(id=name or f"chat {i}", prompt=prompt, max_tokens=max_tokens)


@functools.cache
def _reader() -> tuple[PromptReader, ModelSpec]:
    return PromptReader(), catalogue().get(CHAT)


def built_in_prompt(text: str) -> Prompt:
    reader, spec = _reader()
    return reader.read(spec, [Message("user", text)], PromptOptions())


def settle() -> None:
    """Waits until the threads of the other side's last parallel region have stopped spinning on the shared cores."""
    time.sleep(0.1)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Iterable[float]) -> float:
    return statistics.median(values)
