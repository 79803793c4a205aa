"""Measures embeddings on the real server: eight texts in one request, or eight clients at once, against one by one.

    python benchmarks/embeddings.py --json embeddings.json

Then the seconds between the tokens of a chat, alone and beside a client that embeds long texts without a pause.
The model is the built-in MiniLM. Bars: eight texts at once are embedded at least three times as fast as one by one; the
median between two tokens grows by no more than a request of the embeddings takes.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common

from tests.support.http.live_server import LiveServer

TEXTS = 8
# Words of a text, and the least that eight at once must gain: a text of some length keeps a CPU busy alone.
LENGTHS = {"query": (5, 3.0), "sentence": (20, None), "passage": (200, None)}
LONG = 200
WORDS = (
    "sea",
    "wide",
    "night",
    "over",
    "city",
    "many",
    "lights",
    "people",
    "see",
    "from",
    "far",
    "away",
    "boats",
    "under",
)


def texts(n_words: int, number: int) -> list[str]:
    """Returns eight texts that differ from each other and from those of other numbers."""
    return [" ".join(WORDS[(number + i * j) % len(WORDS)] for i in range(n_words)) for j in range(1, TEXTS + 1)]


def embed(live: LiveServer, inputs: Sequence[str]) -> None:
    reply = live.post("/v1/embeddings", {"input": list(inputs), "encoding_format": "base64"})
    assert reply.status == 200, reply.body
    assert len(reply.json["data"]) == len(inputs)


def texts_per_s(live: LiveServer, n_words: int, rounds: int) -> tuple[float, float, float]:
    """Texts per second one by one, eight in one request, and one each from eight clients at once.

    The three take turns, so that other work on the machine disturbs all alike.
    """
    seconds = [0.0, 0.0, 0.0]
    with ThreadPoolExecutor(TEXTS) as clients:
        for number in range(rounds + 2):
            inputs = texts(n_words, number)
            sides = (
                lambda inputs=inputs: [embed(live, [text]) for text in inputs],
                lambda inputs=inputs: embed(live, inputs),
                lambda inputs=inputs: list(clients.map(lambda text: embed(live, [text]), inputs)),
            )
            for side, work in enumerate(sides):
                taken = common.timed(work)[1]
                seconds[side] += taken if number >= 2 else 0.0  # the first rounds also measure memory
    one, together, clients_s = (rounds * TEXTS / taken for taken in seconds)
    return one, together, clients_s


def between_tokens(live: LiveServer, chats: int) -> list[float]:
    found: list[float] = []
    for number in range(chats):
        pieces_s = live.chat(common.QUESTIONS[number % len(common.QUESTIONS)], max_tokens=32, temperature=0)
        found += [b - a for a, b in itertools.pairwise(pieces_s)]
    return found


def measure_beside_chat(report: common.Report, live: LiveServer, chats: int) -> None:
    between_tokens(live, 2)
    alone = between_tokens(live, chats)
    stop, n_texts = threading.Event(), itertools.count()

    def embed_on() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            embed(live, texts(LONG, number))
            next(n_texts)

    embedding = threading.Thread(target=embed_on)
    began = time.perf_counter()
    embedding.start()
    try:
        beside = between_tokens(live, chats)
    finally:
        stop.set()
        embedding.join()
    report.add("long texts embedded meanwhile", TEXTS * next(n_texts) / (time.perf_counter() - began), "/s", least=0.1)
    forward_s = common.median([common.timed(lambda n=n: embed(live, texts(LONG, n)))[1] for n in range(5)])
    report.add(f"a request with {TEXTS} of these texts", forward_s * 1e3, "ms")
    for share, name in ((0.5, "median"), (0.95, "p95")):
        report.add(f"between two tokens of a chat alone, {name}", common.percentile(alone, share) * 1e3, "ms")
        report.add(f"between two tokens beside embeddings, {name}", common.percentile(beside, share) * 1e3, "ms")
    longer = common.percentile(beside, 0.5) - common.percentile(alone, 0.5)
    report.add("longer between two tokens, median, over such a request", longer / forward_s, "x", most=1)


def main() -> None:
    rounds = {"type": int, "default": 30, "help": "times that eight texts are embedded (default: 30)"}
    chats = {"type": int, "default": 12, "help": "chats to measure (default: 12)"}
    arguments = common.arguments(__doc__ or "", ("--rounds", rounds), ("--chats", chats))
    report = common.Report("embeddings")
    assert common.built_in("embedding") is not None, "the built-in model is not here: make models"
    with tempfile.TemporaryDirectory() as folder:
        live = LiveServer(Path(folder) / "data").start()
        try:
            embed(live, texts(5, 0))  # the model is loaded
            for name, (n_words, least) in LENGTHS.items():
                one, together, clients = texts_per_s(live, n_words, arguments.rounds)
                report.add(f"{name} of {n_words} words, one by one", one, "/s")
                report.add(f"{name}, {TEXTS} in a request", together, "/s")
                report.add(f"{name}, {TEXTS} clients at once", clients, "/s")
                report.add(f"{name}: {TEXTS} in a request over one by one", together / one, "x", least=least)
                report.add(f"{name}: {TEXTS} clients over one by one", clients / one, "x")
            measure_beside_chat(report, live, arguments.chats)
        finally:
            live.stop()
    report.save(arguments.json)


if __name__ == "__main__":
    main()
