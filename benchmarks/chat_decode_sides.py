"""What `chat_decode.py` measures: a lane with chats that run, a forward alone, and transformers' own engine."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from pipelines import device as devices
from pipelines.chat.lane import ChatLane
from pipelines.chat_interface import ChatRequest
from pipelines.interface import Replied


def copy_rate(device: str, n_bytes: int) -> float:
    """Bytes a second that the device reads and writes when it copies its own memory."""
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        devices.finish(device)
        began = time.perf_counter()
        for _ in range(4):
            target.copy_(source)
        devices.finish(device)
        best = min(best, (time.perf_counter() - began) / 4)
    return 2 * n_bytes / best


def launch_seconds(device: str) -> float:
    """Seconds of the host to launch a small operator."""
    value = torch.zeros(8, device=device)
    devices.finish(device)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(500):
            value.add_(1)
        best = min(best, (time.perf_counter() - began) / 500)
        devices.finish(device)
    return best


def run_to_end(lane: ChatLane, requests: list[ChatRequest]) -> dict[str, str]:
    """Request → text of its reply."""
    for request in requests:
        lane.admit(request)
    updates = []
    while lane.has_work():
        updates += lane.step()
    return {each.request_id: each.text for each in updates if isinstance(each, Replied)}


@contextmanager
def running(lane: ChatLane, requests: list[ChatRequest]) -> Iterator[None]:
    """The chats' prompts have been read in this block; they are canceled after it."""
    for request in requests:
        lane.admit(request)
    seen: set[str] = set()
    while len(seen) < len(requests):
        for update in lane.step():
            if not hasattr(update, "text"):
                raise RuntimeError(f"a chat ended early: {update}")
            seen.add(update.request_id)
    try:
        yield
    finally:
        for request in requests:
            lane.cancel(request.id)
        while lane.has_work():
            lane.step()


def forward_seconds(lane: ChatLane, rows: int, device: str) -> float | None:
    """Seconds of the device for a static forward of so many rows, launched one after the other without a host between.

    The rows are padding: they attend to one token.
    """
    batch: Any = lane._kv_cache.batch
    steps = batch._decode
    if steps is None:
        return None
    width = steps._width(rows)
    forward = steps._graphs.get(width) or functools.partial(steps._run, width, 1, steps._forward_of(width))
    with torch.inference_mode(), devices.on_stream(batch.stream):
        forward()
        devices.finish(device)
        count = 3 if device == "cpu" else 30
        began = time.perf_counter()
        for _ in range(count):
            forward()
        devices.finish(device)
    return (time.perf_counter() - began) / count


@contextmanager
def timed_calls(batch: Any, spent: dict[str, float]) -> Iterator[None]:
    """Adds up the host's time in the parts of a decode step."""

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **more)
            finally:
                spent[part] += time.perf_counter() - began

        return run

    sampler, wait, steps = batch._sampler, devices.HostCopy.wait, batch._decode
    batch._sampler = timed("sampler", sampler)
    devices.HostCopy.wait = timed("wait", wait)  # type: ignore[method-assign]
    if steps is not None:
        steps.launch = timed("launch", steps.launch)
    try:
        yield
    finally:
        batch._sampler = sampler
        devices.HostCopy.wait = wait  # type: ignore[method-assign]
        if steps is not None:
            del steps.launch


def start_engine(model: Any, graphs: bool | None, chats: int, tiny: bool) -> Any:
    """transformers' continuous batching in its own thread, as `transformers serve` runs it. chats: most at once."""
    settings = ContinuousBatchingConfig(
        page_size=32 if tiny else 256,
        num_blocks=256,
        max_batch_tokens=256 if tiny else 1024,
        max_requests_per_batch=chats,
        use_cuda_graph=graphs,
        auto_switch_to_flash=False,  # the switch may download kernels
    )
    model.set_attn_implementation("sdpa")
    engine = model.init_continuous_batching(GenerationConfig(do_sample=False, eos_token_id=-1), settings)
    engine.start()
    return engine


def engine_seconds(engine: Any, chats: int, tokens: int) -> float:
    """Seconds until so many chats have so many tokens. The prompts differ in their first token."""
    inputs = [[3 + i, *range(10, 40)] for i in range(chats)]
    began = time.perf_counter()
    engine.add_requests(inputs, max_new_tokens=tokens)
    done = 0
    while done < chats:
        result = engine.get_result(timeout=30)
        if result is None or result.error:
            raise RuntimeError(f"the engine gave no result: {result and result.error}")
        done += result.is_finished()
    return time.perf_counter() - began
