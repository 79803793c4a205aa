"""Measures how fast the log probabilities of prompts come out of a lane: one request at a time, and many at once.

    OMP_NUM_THREADS=1 python benchmarks/prompt_scores.py --threads 1 --json scores.json

The other side is the model called directly, one whole forward for each prompt, as evaluation programs do without a
server; both use the built-in language model in float32. Prompts are as long as those of lm-eval, about 40 tokens, and
no two are alike. Both sides are told in prompts a second of CPU time as well, which other work on the machine disturbs
less. Bars: no slower than direct forwards but for a tenth, and many at once no slower than one by one; the log
probabilities of both sides agree.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import common
import torch

from models.loading.chat import open_chat
from models.loading.shared_weights import SharedWeights
from pipelines import device
from pipelines.chat.lane import ChatLane
from pipelines.chat_interface import ChatRequest, Prompt
from pipelines.interface import Replied, TextDelta

N_PROMPTS, AT_ONCE = 64, (1, 8, 16, 32)
Scores = dict[str, list[float]]


def prompts(vocabulary: int) -> list[tuple[int, ...]]:
    random = Random(14)
    return [tuple(random.randrange(100, vocabulary) for _ in range(random.randrange(10, 70))) for _ in range(N_PROMPTS)]


def scored_by_lane(lane: ChatLane, texts: Sequence[tuple[int, ...]], at_once: int) -> Scores:
    found: Scores = {}
    waiting = [
        ChatRequest(id=str(i), prompt=Prompt(tokens=text, raw=True), max_tokens=1, n_prompt_logprobs=1)
        for i, text in enumerate(texts)
    ]
    n_running = 0
    while waiting or n_running:
        while waiting and n_running < at_once:
            lane.admit(waiting.pop(0))
            n_running += 1
        for update in lane.step():
            if isinstance(update, TextDelta) and update.section == "prompt":
                found[update.request_id] = [token.chosen.logprob for token in update.logprobs[1:]]
            n_running -= isinstance(update, Replied)
    return found


@torch.inference_mode()
def scored_directly(model: Any, texts: Sequence[tuple[int, ...]]) -> Scores:
    found: Scores = {}
    for i, text in enumerate(texts):
        tokens = torch.tensor([text], device=model.device)
        logprobs = model(tokens).logits[0, :-1].float().log_softmax(-1)
        found[str(i)] = logprobs.gather(-1, tokens[0, 1:, None])[:, 0].tolist()
    return found


def per_second(score: Callable[[], Scores]) -> tuple[float, float, Scores]:
    """Returns prompts per second, and per second of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    scores = score()
    return len(scores) / (time.perf_counter() - wall), len(scores) / (time.process_time() - cpu), scores


def main() -> None:
    arguments = common.arguments(
        __doc__ or "",
        ("--threads", {"type": int, "default": torch.get_num_threads(), "help": "of torch (default: torch's)"}),
        ("--device", {"default": device.default_device(), "help": "cpu or cuda (default: cuda where there is one)"}),
    )
    torch.set_num_threads(arguments.threads)
    report = common.Report("log probabilities of prompts")
    spec = common.catalogue().get(common.CHAT)
    plain = replace(spec, load=replace(spec.load, quantization=None))
    assert plain.path is not None
    model, tokenizer, _ = open_chat(plain, plain.path, arguments.device, torch.float32, SharedWeights())
    texts = prompts(model.config.vocab_size)
    scored_directly(model, texts[:8])
    wall, cpu, direct = per_second(lambda: scored_directly(model, texts))
    report.add("direct forwards", wall, "1/s")
    report.add("direct forwards, per CPU second", cpu, "1/s")
    lane = ChatLane(model, tokenizer, cache_bytes=256 << 20)  # from here on the model attends to pages
    scored_by_lane(lane, texts[:8], 4)
    per_cpu = {}
    for at_once in AT_ONCE:
        wall, per_cpu[at_once], scores = per_second(functools.partial(scored_by_lane, lane, texts, at_once))
        report.add(f"{at_once} at once", wall, "1/s")
        report.add(f"{at_once} at once, per CPU second", per_cpu[at_once], "1/s")
        report.add(f"{at_once} at once, over direct forwards, per CPU second", per_cpu[at_once] / cpu, "x", least=0.9)
        off = [abs(a - b) for name in direct for a, b in zip(scores[name], direct[name], strict=True)]
        report.add(f"{at_once} at once, largest difference", max(off), "", most=1e-3)
    most = max(AT_ONCE)
    report.add(f"{most} at once over one by one, per CPU second", per_cpu[most] / per_cpu[1], "x", least=1.0)
    report.save(arguments.json)


if __name__ == "__main__":
    main()
