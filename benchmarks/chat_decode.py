"""Measures decode steps of a language model: static steps as CUDA graphs, compiled or not, and transformers' engine.

    python benchmarks/chat_decode.py --out decode.json             Llama-3.2-1B's shape, random weights, on a GPU
    python benchmarks/chat_decode.py --out tiny.json --tiny        a tiny model, also on a CPU: a dry run

For 1, 8 and 32 chats: milliseconds a step and tokens a second of each variant; the share of the memory-bandwidth limit
(measured copy rate ÷ bytes of weights) that one chat reaches; how long the device takes for the forward alone; what the
host does in a step, and how busy the machine is. A variant that fails is recorded with its error, and what there is so
far is written after every measurement.

What waits for the host comes first, before anything is compiled in this process, so that every variant finds the same
machine. An eager step is measured once more at the end, which shows whether that is so.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGAN = time.perf_counter()  # imports count, too: whoever runs this has an end in mind
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  (needs the path above)

from benchmarks.chat_decode_sides import (  # noqa: E402
    copy_rate,
    engine_seconds,
    forward_seconds,
    launch_seconds,
    run_to_end,
    running,
    start_engine,
    timed_calls,
)
from benchmarks.common import Report  # noqa: E402
from pipelines import device as devices  # noqa: E402
from pipelines.chat.decode.options import DecodeOptions  # noqa: E402
from pipelines.chat.decode.step_compiler import compile_beside  # noqa: E402
from pipelines.chat.lane import ChatLane  # noqa: E402
from pipelines.chat_interface import ChatRequest  # noqa: E402
from scripts.gpu_build import built  # noqa: E402
from scripts.gpu_chats import llama_3_2_1b  # noqa: E402
from server.process.libraries import stop_compilers  # noqa: E402
from tests.support.lanes.tiny_chat import tiny_model, tiny_tokenizer  # noqa: E402
from tests.support.prompts import asked  # noqa: E402

CHATS = (1, 8, 32)
COPY_BYTES = 1 << 30
WAIT_RESERVE_S = 10.0  # of the time, kept for measuring what is compiled by then
CHECKED_TOKENS = 16  # of each of eight chats, compared between variants

EAGER, COMPILED = "eager", "layers compiled"
DEVICE = devices.default_device()
# transformers' steps and static ones. Those that are not measured by default are named with --variants.
VARIANTS: dict[str, DecodeOptions] = {
    EAGER: DecodeOptions(),
    "plain graphs": DecodeOptions(static=True, graphs=DEVICE != "cpu"),
    COMPILED: DecodeOptions(
        static=True, graphs=DEVICE != "cpu", compile=functools.partial(compile_beside, device_name=DEVICE)
    ),
    "products apart, compiled": DecodeOptions(
        static=True,
        graphs=DEVICE != "cpu",
        joins=False,
        compile=functools.partial(compile_beside, device_name=DEVICE),
    ),
    "no lookahead": DecodeOptions(static=True, lookahead=False),
    "static without graphs": DecodeOptions(static=True, graphs=False),
}
# The engine of `transformers serve`: as it decides itself, and with graphs whatever it decides.
ENGINES: dict[str, bool | None] = {"transformers": None, "transformers, graphs": True}
ORDER = (EAGER, "transformers, graphs", "transformers", "plain graphs", COMPILED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--seconds", type=float, default=60.0, help="begin no measurement after so many")
    parser.add_argument("--turn-seconds", type=float, default=0.6, help="how long one variant is measured in one turn")
    parser.add_argument("--turns", type=int, default=1, help="how often each is measured")
    parser.add_argument("--tiny", action="store_true", help="a tiny model")
    parser.add_argument("--variants", default="", help="only those whose names contain one of these, comma-separated")
    parser.add_argument("--profile", action="store_true", help="also name the kernels of a step that take longest")
    args = parser.parse_args()
    Benchmark(args).run()
    stop_compilers()


class Benchmark:
    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._until = BEGAN + args.seconds
        self._device = DEVICE
        self._report = Report(f"decode steps, {devices.name(self._device)}")
        self._lanes: dict[str, ChatLane] = {}
        self._engines: dict[str, Any] = {}
        self._step_ms: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._names = (f"chat {i}" for i in range(1_000_000))

    def run(self) -> None:
        dtype = torch.float32 if self._device == "cpu" else torch.bfloat16
        build = tiny_model if self._args.tiny else functools.partial(built, self._device, dtype, llama_3_2_1b)
        self._model = build().to(self._device)
        n_read = sum(each.numel() for each in self._model.parameters())
        if not self._model.config.tie_word_embeddings:  # else the last layer reads them
            n_read -= self._model.get_input_embeddings().weight.numel()
        weight_bytes = n_read * self._model.dtype.itemsize
        self._add("weights read by a step", weight_bytes / 1e9, "GB")
        rate = copy_rate(self._device, COPY_BYTES if self._device != "cpu" else COPY_BYTES >> 5)
        self._add("copy rate of the device", rate / 1e9, "GB/s")
        limit = rate / weight_bytes
        self._add("limit at one chat", limit, "tok/s")
        wanted = [each.strip() for each in self._args.variants.split(",") if each.strip()]
        known = [*ORDER, *(name for name in VARIANTS if name not in ORDER)]
        chosen = [name for name in known if any(each in name for each in wanted)] if wanted else ORDER
        self._add_host("at first")
        for name in chosen:
            self._run_variant(name)
        self._add_host("at the end")
        self._try("replies equal", self._compare)
        self._summarize(limit)
        if self._args.profile and self._lanes:
            self._try("kernels", self._kernels)
        if EAGER in self._lanes and len(self._lanes) > 1:
            self._try("eager again", self._measure_again, EAGER)
        for name in reversed(self._lanes):
            for chats in (1, 32):
                self._try(f"{name}, {chats} chats: the host's part", self._host_part, name, chats)

    def _run_variant(self, name: str) -> None:
        if name in VARIANTS:
            self._try(f"{name}: made", self._make, name)
        measure = self._measure if name in VARIANTS else self._measure_engine
        for turn in range(self._args.turns):
            for chats in CHATS:
                if name in self._lanes or name in ENGINES:
                    self._try(f"{name}, {chats} chats, turn {turn}", measure, name, chats)
        if name in self._engines:  # its thread must not wait beside the next variant
            self._engines[name].stop(block=True, timeout=10)

    def _add_host(self, when: str) -> None:
        """How long the host takes to launch an operator, and how much else runs: the rest of an eager step is that."""
        self._add(f"host, {when}: an operator launched in", 1e6 * launch_seconds(self._device), "us")
        self._add(f"host, {when}: processes that want a core", os.getloadavg()[0])

    def _try(self, what: str, call: Callable[..., None], *args: Any) -> None:
        """Run one measurement; its failure is a result. None is begun when the time is over."""
        if time.perf_counter() > self._until:
            self._add(what, "not begun: the time is over")
            return
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001  # one variant's failure must not lose the others' figures
            traceback.print_exc()
            self._add(what, f"FAILED {type(error).__name__}: {str(error)[:300]}")
            self._lanes.pop(str(args[0]) if args else "", None)

    def _add(self, what: str, value: float | str, unit: str = "", **bar: float) -> None:
        self._report.add(what, value, unit, **bar)
        self._report.save(self._args.out)

    def _make(self, name: str) -> None:
        began = time.perf_counter()
        cache_bytes = (4 << 20) if self._args.tiny else (2 << 30)
        lane = ChatLane(
            self._model, tiny_tokenizer(), cache_bytes=cache_bytes, max_running=max(CHATS), decode=VARIANTS[name]
        )
        run_to_end(lane, [self._request(4) for _ in range(max(CHATS))])
        run_to_end(lane, [self._request(4)])
        self._add(f"{name}: made in, with the first replies", time.perf_counter() - began, "s")
        if lane.preparing:
            self._wait_for_compilers(name, lane)
        self._add(f"{name}: cache, buffers and graphs", lane.cache_bytes / 1e6, "MB")
        for note in lane.notes:
            self._add(f"{name}: note", note)
        for chats in (1, 8, 32):
            seconds = forward_seconds(lane, chats, self._device)
            if seconds is not None:
                self._add(f"{name}: forward alone, {chats} rows", 1e3 * seconds, "ms")
        self._lanes[name] = lane

    def _wait_for_compilers(self, name: str, lane: ChatLane) -> None:
        """Until compiled steps are in use, or so late that there is just time to measure those that are."""
        reserve_s = self._args.seconds / 2 if self._args.tiny else WAIT_RESERVE_S
        began, until = time.perf_counter(), self._until - reserve_s
        compiler: Any = lane._compiler
        while lane.preparing and not compiler.ready and time.perf_counter() < until:
            time.sleep(0.1)
        self._add(f"{name}: first compiled after", time.perf_counter() - began, "s")
        while lane.preparing and (time.perf_counter() < until or compiler.ready):
            if not compiler.ready:
                time.sleep(0.1)
                continue
            rows, taking = compiler.ready[0], time.perf_counter()
            run_to_end(lane, [self._request(3)])
            self._add(f"{name}: {rows} rows taken into use in", time.perf_counter() - taking, "s")
        self._add(f"{name}: all compiled after", time.perf_counter() - began, "s")
        for what in ("fxgraph_cache_hit", "fxgraph_cache_miss", "coordesc_tuning_bench"):
            self._add(f"{name}: {what} in this process", float(torch._dynamo.utils.counters["inductor"][what]))

    def _request(self, max_tokens: int, name: str = "", **settings: Any) -> ChatRequest:
        name = name or next(self._names)
        return ChatRequest(
            id=name, prompt=asked(tiny_tokenizer(), f"{name}: what is it like?"), max_tokens=max_tokens, **settings
        )

    def _compare(self) -> None:
        """Whether the variants give the same replies. Half precision rounds in another order, which may break ties."""
        texts = {}
        for name, lane in self._lanes.items():
            requests = [self._request(CHECKED_TOKENS, f"same {i}") for i in range(8)]
            texts[name] = run_to_end(lane, requests)
        first = next(iter(texts.values()))
        for name, replies in texts.items():
            same = [a == b for key in first for a, b in zip(first[key], replies.get(key, ""), strict=False)]
            self._add(f"{name}: characters as the first variant's", sum(same) / max(1, len(same)))

    def _measure(self, name: str, chats: int) -> None:
        step_s, host_s = self._step_seconds(name, chats)
        self._record(name, chats, step_s)
        if name == EAGER:
            self._add(f"{name}, {chats} chats: of it, this thread on a core", 1e3 * host_s, "ms")

    def _measure_again(self, name: str) -> None:
        step_s, host_s = self._step_seconds(name, 1)
        self._add(f"{name}, 1 chats, again after all others", 1e3 * step_s, "ms")
        self._add(f"{name}, 1 chats, again: of it, this thread on a core", 1e3 * host_s, "ms")

    def _step_seconds(self, name: str, chats: int) -> tuple[float, float]:
        """Of a step, by the clock, and of this thread on a core."""
        lane = self._lanes[name]
        with running(lane, [self._request(100_000) for _ in range(chats)]):
            for _ in range(3):
                lane.step()
            devices.finish(self._device)
            began, on_core, steps = time.perf_counter(), time.thread_time(), 0
            while (seconds := time.perf_counter() - began) < self._args.turn_seconds and steps < 512:
                lane.step()
                lane.take_costs()
                steps += 1
            return seconds / steps, (time.thread_time() - on_core) / steps

    def _record(self, name: str, chats: int, step_s: float) -> None:
        self._step_ms[name, chats].append(1e3 * step_s)
        self._add(f"{name}, {chats} chats", 1e3 * step_s, "ms")

    def _measure_engine(self, name: str, chats: int) -> None:
        """The difference between long and short replies is the time of steps without prompts."""
        engine = self._engines.get(name)
        if engine is None:
            engine = self._engines[name] = start_engine(self._model, ENGINES[name], max(CHATS), self._args.tiny)
            engine_seconds(engine, 1, 8), engine_seconds(engine, max(CHATS), 8)
        short, long = 8, 8 + (16 if self._args.tiny else 64)
        short_s, long_s = engine_seconds(engine, chats, short), engine_seconds(engine, chats, long)
        self._record(name, chats, (long_s - short_s) / (long - short))

    def _summarize(self, limit: float) -> None:
        medians = {key: statistics.median(values) for key, values in self._step_ms.items()}
        rates = {key: 1e3 * key[1] / ms for key, ms in medians.items()}
        for (name, chats), rate in rates.items():
            self._add(f"{name}, {chats} chats: rate", rate, "tok/s")
        for name in VARIANTS:
            if (name, 1) not in rates:
                continue
            self._add(f"{name}: one chat over the limit", rates[name, 1] / limit, "x", least=0.6)
            if (name, 8) in rates:
                self._add(f"{name}: eight chats over one", rates[name, 8] / rates[name, 1], "x", least=6.0)
            for chats in CHATS:
                others = [rates[other, chats] for other in ENGINES if (other, chats) in rates]
                if others and (name, chats) in rates:
                    ratio = rates[name, chats] / max(others)
                    self._add(f"{name} over the faster transformers, {chats} chats", ratio, "x", least=1.0)

    def _host_part(self, name: str, chats: int) -> None:
        """Where the time of a step goes on the host: waiting for the device is the rest of it."""
        lane = self._lanes[name]
        batch: Any = lane._kv_cache.batch
        spent: dict[str, float] = defaultdict(float)
        with running(lane, [self._request(100_000, temperature=0.8, top_p=0.9) for _ in range(chats)]):
            for _ in range(3):
                lane.step()
            steps = 20
            with timed_calls(batch, spent):
                began = time.perf_counter()
                for _ in range(steps):
                    lane.step()
                spent["whole step, sampled with top_p"] = time.perf_counter() - began
        inside = sum(spent[part] for part in ("launch", "sampler", "wait"))
        spent["bookkeeping and text"] = spent["whole step, sampled with top_p"] - inside
        for part, seconds in spent.items():
            self._add(f"{name}, {chats} chats: {part}", 1e3 * seconds / steps, "ms")

    def _kernels(self) -> None:
        """The kernels of a step with one chat and with eight, in the last variant."""
        name = list(self._lanes)[-1]
        for chats in (1, 8):
            self._add_kernels(name, chats)

    def _add_kernels(self, name: str, chats: int) -> None:
        lane = self._lanes[name]
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self._device != "cpu":
            kinds = [torch.profiler.ProfilerActivity.CUDA]
        with running(lane, [self._request(100_000) for _ in range(chats)]):
            for _ in range(3):
                lane.step()
            with torch.profiler.profile(activities=kinds) as profiler:
                for _ in range(5):
                    lane.step()
                devices.finish(self._device)
        key = "self_cpu_time_total" if self._device == "cpu" else "self_device_time_total"
        events = sorted(profiler.key_averages(), key=lambda each: -getattr(each, key))
        for event in events[:20]:
            self._add(
                f"{name}, {chats} chats, kernel {event.count // 5}x {event.key[:90]}", getattr(event, key) / 5, "us"
            )


if __name__ == "__main__":
    main()
