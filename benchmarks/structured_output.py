"""Measures what the form of a reply costs: the chat itself, its neighbours, and the server that reads the grammar.

    python benchmarks/structured_output.py [--rounds 7] [--tokens 32]

Eight chats run with a schema and without, in turns, for the same number of tokens; the ratio is the median of the
rounds' ratios, so that other work on the machine meets both sides. Then a thread ticks while grammars are compiled: the
longest gap is what a compile may add to another chat's token, less the longest gap while nothing is compiled.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import common

from models.loading.load import load
from models.loading.tokenizer import open_tokenizer
from pipelines.chat.grammar.compiler import GrammarCompiler
from pipelines.chat_interface import ChatRequest, Grammar, PromptRefused
from pipelines.interface import Lane

CHATS, ROUNDS, TOKENS = 8, 7, 32
MOST_RATIO = 1.10  # of the time a token without a grammar
MOST_DELAY_MS = 5.0  # of another chat's token while a schema is compiled
MOST_BOMB_S = 1.0
TICK_S = 0.0005
COMPILES = 20  # of the same schema under other names
LONG = {"type": "object", "properties": {"story": {"type": "string", "minLength": 2000}}, "required": ["story"]}


def tool(n_properties: int) -> dict[str, Any]:
    text = {"type": "string"}
    kinds = (text, {"type": "integer"}, {"enum": ["a", "b"]}, {"type": "array", "items": text})
    properties = {f"property_{i}": kinds[i % 4] for i in range(n_properties)}
    return {"type": "object", "properties": properties, "required": [*properties][::2], "additionalProperties": False}


SCHEMAS = {"a tool of 8 properties": tool(8), "a tool of 100 properties": tool(100)}
PATTERNS = [{"type": "string", "pattern": f".*[ab].{{{i}}}"} for i in range(60)]
BOMBS: dict[str, Any] = {
    "all of 60 patterns": {"allOf": PATTERNS},
    "6,000 optional properties": {"properties": {f"p{i}": {"type": "string"} for i in range(6000)}},
    "10,000 required names": {"type": "object", "required": [f"p{i}" for i in range(10_000)]},
    "a large divisor": {"type": "integer", "multipleOf": 999_999_937},
    "a loop of references": {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {}]}}},
}


def main() -> None:
    arguments = common.arguments(
        __doc__ or "",
        ("--rounds", {"type": int, "default": ROUNDS, "help": f"turns of each side (default: {ROUNDS})"}),
        ("--tokens", {"type": int, "default": TOKENS, "help": f"of each reply (default: {TOKENS})"}),
    )
    report = common.Report("structured output")
    spec = common.catalogue().get(common.CHAT)
    assert spec.path is not None
    tokenizer = open_tokenizer(spec, spec.path)
    compiler, seconds = common.timed(lambda: GrammarCompiler(tokenizer))
    report.add("reading the vocabulary, once for each tokenizer", seconds, "s")
    report.add("opening it, while other threads wait", 1e3 * common.timed(compiler.open)[1], "ms")
    measure_compiles(report, compiler)
    measure_bombs(report, compiler)
    measure_tokens(report, load(spec, device="cpu", cache_bytes=64 << 20), compiler, arguments)
    report.save(arguments.json)


def measure_tokens(report: common.Report, lane: Lane, compiler: GrammarCompiler, arguments: Any) -> None:
    """The processor's time tells more than the clock where other programs run beside this one."""
    constraint = compiler.compile(schema(LONG))
    free: list[tuple[float, float]] = []
    bound: list[tuple[float, float]] = []
    for number in range(arguments.rounds + 1):  # the first warms up and does not count
        requests = [common.chat_request(i, arguments.tokens, text=f"({number}) ") for i in range(CHATS)]
        constrained = [replace(r, id=f"{r.id}g", prompt=replace(r.prompt, constraint=constraint)) for r in requests]
        sides = ((free, requests), (bound, constrained))
        for seconds, chats in sides[:: 1 if number % 2 else -1]:
            seconds.append(token_s(lane, chats))
    for clock, name in enumerate(("", ", of the processor")):
        ratios = [one[clock] / other[clock] for one, other in zip(bound[1:], free[1:], strict=True)]
        report.add(f"a token of {CHATS} chats, free{name}", 1e3 * common.median(each[clock] for each in free[1:]), "ms")
        report.add(f"  with a schema{name}", 1e3 * common.median(each[clock] for each in bound[1:]), "ms")
        report.add(f"  with a schema over free{name}", common.median(ratios), "x", most=MOST_RATIO)


def token_s(lane: Lane, chats: list[ChatRequest]) -> tuple[float, float]:
    """Seconds of a decode step that gives each chat a token, and those of the processor; medians."""
    for chat in chats:
        lane.admit(replace(chat, ignores_end=True))
    steps = []
    while (step := lane.next_step()) is not None:
        began, busy = time.perf_counter(), time.process_time()
        lane.step()
        if step.stage == "decode":
            steps.append((time.perf_counter() - began, time.process_time() - busy))
    return common.median(wall for wall, _ in steps), common.median(cpu for _, cpu in steps)


def measure_compiles(report: common.Report, compiler: GrammarCompiler) -> None:
    usual = longest_gap(lambda: time.sleep(0.5))
    report.add("longest gap of a ticking thread, alone", 1e3 * usual, "ms")
    for name, each in SCHEMAS.items():
        versions = iter([{**each, "title": f"{i}"} for i in range(2 * COMPILES)])

        def compile_next(versions: Iterator[Any] = versions) -> None:
            compiler.compile(schema(next(versions)))

        seconds = [common.timed(compile_next)[1] for _ in range(COMPILES)]
        report.add(f"compiling {name}", 1e3 * common.median(seconds), "ms")
        gaps = [longest_gap(compile_next) for _ in range(COMPILES)]
        report.add("  delay of another thread", 1e3 * max(0.0, common.median(gaps) - usual), "ms", most=MOST_DELAY_MS)


def measure_bombs(report: common.Report, compiler: GrammarCompiler) -> None:
    for name, each in BOMBS.items():
        give_up = functools.partial(refuse, compiler, each)
        report.add(f"refusing {name}", common.timed(give_up)[1], "s", most=MOST_BOMB_S)
        report.add("  longest gap of a ticking thread", 1e3 * longest_gap(give_up), "ms")


def refuse(compiler: GrammarCompiler, bomb: Any) -> None:
    try:
        compiler.compile(schema(bomb))
    except PromptRefused:
        return
    raise AssertionError("the bomb was taken")


def schema(value: Any) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


def longest_gap(work: Callable[[], Any]) -> float:
    """The longest time between two ticks of this thread while another does the work, in seconds."""
    thread = threading.Thread(target=work)
    longest, last = 0.0, time.perf_counter()
    thread.start()
    while thread.is_alive():
        time.sleep(TICK_S)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


if __name__ == "__main__":
    main()
