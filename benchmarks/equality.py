"""Compares jobs with direct calls of the stock pipeline, and chats with `generate`.

    python benchmarks/equality.py --json equality.json

Runs both sides one after the other, for the built-in models and eight stock families with tiny random weights: alone,
in a mixed batch of four, and with `deterministic`. Values are the largest difference of any pixel in [0, 1] before
rounding to 8 bits.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import common
import torch

from models.loading.load import load
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import DiffusionRequest
from pipelines.interface import Replied
from tests.support.lanes.lane_play import direct, gap, mixed_four, rendered
from tests.support.lanes.stock_families import FAMILIES

BAR = 1e-3
N_TOKENS = 48


def main() -> None:
    arguments = common.arguments(__doc__)
    report = common.Report("equality")
    for kind in ("image", "video"):
        spec = common.built_in(kind)
        if spec is None:
            report.add(f"built-in {kind} model", "not there")
            continue
        lane: Any = load(spec, device="cpu")
        make = functools.partial(common.diffusion_request, spec)
        steps = make("a", 0).steps
        four = [make("a", 0), make("b", 1, steps=steps - 2), make("c", 2, guidance_scale=2.0), make("d", 3)]
        compare(report, spec.name, lane, four)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tiny models are slower with two
    for family in FAMILIES.values():
        pipeline = family.build()
        pipeline.set_progress_bar_config(disable=True)
        compare(report, family.name, DiffusionLane(pipeline, kind=family.kind), mixed_four(family))
    torch.set_num_threads(threads)
    chat(report)
    report.save(arguments.json)


def compare(report: common.Report, name: str, lane: DiffusionLane, four: list[DiffusionRequest]) -> None:
    pipeline = lane.pipeline
    pipeline.set_progress_bar_config(disable=True)
    expected = {job.id: direct(pipeline, job) for job in four}
    alone = rendered(lane, four[:1])["a"]
    rendered(lane, four)  # runs the batching proof, on results that ran alone
    mixed = rendered(lane, four)
    pinned = rendered(lane, [replace(four[0], deterministic=True), *four[1:]])["a"]
    report.add(f"{name}: alone", gap(alone.frames, expected["a"]), most=BAR)
    report.add(f"{name}: mixed four", max(gap(mixed[n].frames, frames) for n, frames in expected.items()), most=BAR)
    report.add(f"{name}: deterministic", gap(pinned.frames, expected["a"]), most=0.0)
    report.add(f"{name}: narrowest batch of the four", min(end.batch_peak for end in mixed.values()), least=2)
    lane.close()


def chat(report: common.Report) -> None:
    spec = common.built_in("chat")
    if spec is None:
        report.add("built-in chat model", "not there")
        return
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(spec.path)
    model: Any = AutoModelForCausalLM.from_pretrained(spec.path, dtype=torch.float32).eval()
    expected = [greedy(model, tokenizer, question) for question in common.QUESTIONS]
    del model
    lane: Any = load(spec, device="cpu")

    def replies(numbers: range) -> list[str]:
        for i in numbers:
            lane.admit(common.chat_request(i, N_TOKENS))
        found: dict[str, str] = {}
        while lane.has_work():
            found |= {update.request_id: update.text for update in lane.step() if isinstance(update, Replied)}
        return [found[f"chat {i}"] for i in numbers]

    alone = replies(range(1))
    batched = replies(range(8))
    report.add(f"{spec.name}: greedy replies equal to generate, alone", share(alone, expected), least=1.0)
    report.add(f"{spec.name}: greedy replies equal to generate, 8 at once", share(batched, expected), least=1.0)
    lane.close()


def greedy(model: Any, tokenizer: Any, question: str) -> str:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    tokens = model.generate(**prompt, max_new_tokens=N_TOKENS, do_sample=False)
    return str(tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def share(found: list[str], expected: list[str]) -> float:
    """Returns the share of replies that equal the expected ones. `expected` may have more."""
    return sum(one.strip() == other.strip() for one, other in zip(found, expected, strict=False)) / len(found)


if __name__ == "__main__":
    main()
