"""Measures the gain of batching: 8 images and 8 chats at once against one by one, and against `transformers serve`.

    python benchmarks/batching.py --json batching.json

All sides run on the same machine in the same run: our lanes without HTTP, and `transformers serve` with continuous
batching over HTTP. Its cache has the size of ours, because its default takes most of the memory and is far slower.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common

from models.loading.load import load
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import Replied
from tests.support.lanes.lane_play import rendered

JOBS = 8
N_TOKENS = 48
BLOCK_TOKENS, BLOCKS = 32, 256
START_S = 120.0
TURNS = 7


def main() -> None:
    arguments = common.arguments(
        __doc__, ("--without-serve", {"action": "store_true", "help": "do not run transformers serve"})
    )
    report = common.Report("batching")
    pictures(report)
    chats(report, with_serve=not arguments.without_serve)
    report.save(arguments.json)


def pictures(report: common.Report) -> None:
    spec = common.built_in("image")
    if spec is None:
        name, lane = "stand-in of the built-in's size", DiffusionLane(common.stand_in(), kind="image")
        jobs = [
            DiffusionRequest(
                id=str(i), prompt=common.PROMPTS[i], negative_prompt=None, width=64, height=64, num_frames=None,
                steps=20, guidance_scale=4.0, seed=i, call=common.STAND_IN_CALL,
            )
            for i in range(JOBS)
        ]  # fmt: skip
    else:
        name, lane = spec.name, load(spec, device="cpu")
        jobs = [common.diffusion_request(spec, str(i), i) for i in range(JOBS)]
    for warm_up in (jobs, jobs[:1]):  # runs the batching proof and measures the memory of each batch size
        rendered(lane, warm_up)
    alone, together = [], []
    for turn in range(2 * JOBS):  # alternate, so that other load on the machine affects both sides alike
        alone.append(common.timed(lambda job=jobs[turn % JOBS]: rendered(lane, [job]))[1])
        at_once, seconds = common.timed(lambda: rendered(lane, jobs))
        together.append(seconds)
    gain = common.median(JOBS * one / all_of_them for one, all_of_them in zip(alone, together, strict=True))
    report.add(f"{name}: a picture, alone in the lane, median", common.median(alone), "s")
    report.add(f"{name}: a picture, {JOBS} at once, median", common.median(together) / JOBS, "s")
    report.add(f"{name}: {JOBS} at once against one after another, median of turns", gain, "×", least=1.5)
    report.add(f"{name}: widest batch", max(end.batch_peak for end in at_once.values()))
    lane.close()


def chats(report: common.Report, *, with_serve: bool) -> None:
    spec = common.built_in("chat")
    if spec is None or spec.path is None:
        report.add("built-in chat model", "not there")
        return
    lane: Any = load(spec, device="cpu")

    def ours(numbers: Sequence[int]) -> float:
        began, tokens = time.perf_counter(), 0
        for i in numbers:
            lane.admit(common.chat_request(i, N_TOKENS))
        while lane.has_work():
            tokens += sum(update.completion_tokens for update in lane.step() if isinstance(update, Replied))
        return tokens / (time.perf_counter() - began)

    if with_serve and find_spec("openai") is None:
        report.add("transformers serve", "needs pip install 'transformers[serving]'")
        with_serve = False
    with transformers_serve(spec.path) if with_serve else nullcontext() as theirs:
        sides = {spec.name: ours} | ({"transformers serve": theirs} if theirs else {})
        for side in sides.values():
            side([0])
        alone: dict[str, list[float]] = {name: [] for name in sides}
        together: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(TURNS):  # alternate, and swap the order every other turn
            for name, side in list(sides.items())[:: 1 if turn % 2 else -1]:
                alone[name].append(side([turn % JOBS]))
                together[name].append(side(range(JOBS)))
    lane.close()
    for name in sides:
        report.add(f"{name}: one by one", common.median(alone[name]), "tok/s")
        report.add(f"{name}: {JOBS} at once", common.median(together[name]), "tok/s")
    gains = [many / one for many, one in zip(together[spec.name], alone[spec.name], strict=True)]
    report.add(f"{spec.name}: {JOBS} at once against one by one", common.median(gains), "×", least=3.0)
    if theirs:
        ratios = [a / b for a, b in zip(together[spec.name], together["transformers serve"], strict=True)]
        report.add(f"{JOBS} at once, ours against transformers serve", common.median(ratios), "×", least=1.0)


@contextmanager
def transformers_serve(model: Path) -> Iterator[Callable[[Sequence[int]], float]]:
    """Yields a function that asks the numbered questions at once and returns tokens per second.

    The process is paused while the other side runs, because its loop never sleeps.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--continuous-batching"]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--cb-block-size", str(BLOCK_TOKENS), "--cb-num-blocks", str(BLOCKS)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(i: int) -> int:
        messages = [{"role": "user", "content": common.QUESTIONS[i]}]
        body = {"model": str(model), "messages": messages, "max_tokens": N_TOKENS, "temperature": 0.0, "stream": False}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:  # noqa: S310
            return int(json.load(reply)["usage"]["completion_tokens"])

    def tokens_per_s(numbers: Sequence[int]) -> float:
        process.send_signal(signal.SIGCONT)
        try:
            with ThreadPoolExecutor(len(numbers)) as pool:
                tokens, seconds = common.timed(lambda: sum(pool.map(ask, numbers)))
            return tokens / seconds
        finally:
            process.send_signal(signal.SIGSTOP)

    try:
        wait_for(port, process)
        yield tokens_per_s
    finally:
        process.kill()
        process.wait(20)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("transformers serve did not start") from None
            time.sleep(0.3)


if __name__ == "__main__":
    main()
