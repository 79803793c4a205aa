"""Compares chats on a CPU: the built-in model as it is served, the same in float32, and llama.cpp with the same GGUF.

    python benchmarks/chat_cpu.py [--rounds 4] [--gguf SmolLM2-135M-Instruct.Q4_1.gguf]

The sides take turns, one chat and then eight at once, and every ratio is the median of the rounds' ratios, so that
other work on the machine meets all of them. llama.cpp runs where `llama_cpp` can be imported and the GGUF is given;
eight chats are eight sequences of one batch there, too. Perplexity is over a fixed text.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import common
import torch

from models.catalogue import Catalogue
from models.loading.chat import open_chat
from models.loading.load import load
from models.loading.shared_weights import SharedWeights
from models.spec import ModelSpec
from pipelines.interface import Lane, Replied

ROUNDS, TOKENS = 4, 48
CHATS = (1, 8)
BARS = {1: 0.5, 8: 1.0}  # of llama.cpp's tokens a second
MOST_PERPLEXITY = 1.01  # of float32's
TEXT_FILES = ("LICENSE", "README.md", "docs/architecture.md")
TEXT_TOKENS = 512  # of each file

Chat = Callable[[int, int], float]  # (number of chats, round) → tokens a second


def main() -> None:
    arguments = common.arguments(
        __doc__ or "",
        ("--rounds", {"type": int, "default": ROUNDS, "help": f"turns of each side (default: {ROUNDS})"}),
        ("--gguf", {"type": Path, "default": None, "metavar": "FILE", "help": "for llama.cpp"}),
        ("--threads", {"type": int, "default": torch.get_num_threads(), "help": "of each side (default: torch's)"}),
    )
    torch.set_num_threads(arguments.threads)
    report = common.Report("chat on a CPU")
    with tempfile.TemporaryDirectory() as folder:
        served = Catalogue.open(data_dir=Path(folder), cache_dir=common.CACHE).get(common.CHAT)
    plain = replace(served, load=replace(served.load, quantization=None))
    measured = {name: perplexity(spec) for name, spec in (("float32", plain), ("packed", served))}
    for name, value in measured.items():
        report.add(f"perplexity, {name}", value)
    report.add("perplexity, packed over float32", measured["packed"] / measured["float32"], "x", most=MOST_PERPLEXITY)
    sides: dict[str, Chat] = {"float32": in_lane(plain), "packed": in_lane(served)}
    if arguments.gguf is not None and find_spec("llama_cpp") is not None:
        sides["llama.cpp"] = in_llama(arguments.gguf, arguments.threads)
    rates: dict[tuple[str, int], list[float]] = {(side, chats): [] for side in sides for chats in CHATS}
    for number in range(arguments.rounds + 1):  # the first warms up and does not count
        for side in sorted(sides, reverse=bool(number % 2)):
            for chats in CHATS:
                rate = sides[side](chats, number)
                if number:
                    rates[side, chats].append(rate)
                common.settle()
    for chats in CHATS:
        for side in sides:
            report.add(f"{chats} chats, {side}", common.median(rates[side, chats]), "tok/s")
        report.add(f"{chats} chats, packed over float32", ratio(rates["packed", chats], rates["float32", chats]), "x")
        if "llama.cpp" in sides:
            value = ratio(rates["packed", chats], rates["llama.cpp", chats])
            report.add(f"{chats} chats, packed over llama.cpp", value, "x", least=BARS[chats])
    report.save(arguments.json)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return common.median(one / other for one, other in zip(ours, theirs, strict=True))


def perplexity(spec: ModelSpec) -> float:
    assert spec.path is not None
    model, tokenizer, _ = open_chat(spec, spec.path, "cpu", torch.float32, SharedWeights())
    losses = []
    for name in TEXT_FILES:
        text = (common.ROOT / name).read_text(encoding="utf-8")
        ids = tokenizer(text, return_tensors="pt").input_ids[:, :TEXT_TOKENS]
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    return math.exp(float(torch.cat(losses).mean()))


def in_lane(spec: ModelSpec) -> Chat:
    lane: Lane = load(spec, device="cpu", cache_bytes=64 << 20)

    def run(chats: int, number: int) -> float:
        """The questions get a prefix that differs from round to round, because lanes remember prompts."""
        for index in range(chats):
            lane.admit(common.chat_request(index, TOKENS, text=f"({number}) "))
        began, tokens = time.perf_counter(), 0
        while lane.has_work():
            tokens += sum(update.completion_tokens for update in lane.step() if isinstance(update, Replied))
        return tokens / (time.perf_counter() - began)

    return run


def in_llama(gguf: Path, threads: int) -> Chat:
    """llama.cpp's own batch: one sequence for each chat, greedy, with the same prompts and numbers of tokens."""
    import llama_cpp
    import numpy as np

    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_seq_max = 8 * 512, 2048, max(CHATS)
    options.n_threads = options.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, options)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def decode(entries: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """entries: (token, position, sequence, wants logits). Returns the likeliest next token of each that wants."""
        batch = llama_cpp.llama_batch_init(len(entries), 0, 1)
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = sequence
        if llama_cpp.llama_decode(context, batch):
            raise RuntimeError("llama.cpp could not decode")
        found = []
        for i, (*_, wanted) in enumerate(entries):
            if wanted:
                logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), shape=(vocabulary,))
                found.append(int(logits.argmax()))
        llama_cpp.llama_batch_free(batch)
        return found

    def run(chats: int, number: int) -> float:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        prompts = [list(common.built_in_prompt(f"({number}) {common.QUESTIONS[i]}").tokens) for i in range(chats)]
        began = time.perf_counter()
        entries = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        following, tokens = decode(entries), chats
        for step in range(TOKENS - 1):
            following = decode([(t, len(prompts[i]) + step, i, True) for i, t in enumerate(following)])
            tokens += chats
        return tokens / (time.perf_counter() - began)

    return run


if __name__ == "__main__":
    main()
