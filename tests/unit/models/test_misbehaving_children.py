"""A child that a stranger's file or text has taken over harms what it reads, and neither the server nor the next one.

Each is the real worker, which for one file, model or text writes something else than an answer. The server must keep
little of it, end the child, and refuse that one alone with a reason.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.isolation import child as child_module
from models.isolation.children import Children
from models.loading import confined
from models.loading.confined import confine
from models.reading.isolated_reader import IsolatedReader
from pipelines.chat_interface import PromptRefused
from pipelines.child_process import start
from server.jobs.inputs.decoded import Refused
from server.jobs.inputs.decoder import TOO_MUCH, Decoder
from tests.support.catalogues import open_catalogue
from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.checkpoints import chat_folder
from tests.support.odd_files.case import encoded, sample

pytestmark = pytest.mark.slow  # each case starts two or three processes

MOST_GROWN_BYTES = 10 << 20

DEEDS = {
    "garbage": "write(bytes(range(256)) * 99 + b'\\n')",
    "half an answer": 'write(b\'{"outcome": {"@": "Outc\'); os._exit(0)',
    "a gigabyte without end": "[write(b'x' * 2**20) for _ in range(1024)]",
    "a long answer": "write(b'{\"text\": \"' + b'x' * 2**26 + b'\"}\\n')",
    "deeply nested": "write(b'[' * 200_000 + b'\\n')",
    "many small values": "write(b'[' + b'[],' * 40_000 + b'0]\\n')",
    "a name that goes on": "[write(b'{\"doing\": \"' + b'x' * 2**20 + b'\"}\\n') for _ in range(99)]",
    "another form": 'write(b\'{"outcome": 5, "stamps": [], "text": 5, "encodings": [5], "decoded": []}\\n\')',
    "values of another class": 'write(b\'{"outcome": {"@": "Refusal", "reason": ""}, "stamps": null}\\n\')',
    "null": "write(b'null\\n')",
    "two answers": 'write(b\'{"must_be": "a"}\\n{"must_be": "b"}\\n\')',
    "nothing": "os._exit(0)",
}

# The real workers, with a deed in place of the answer to a question that has "hostile" in it.
READER = """
import os
from models.isolation import serving
from models.reading import worker
write = lambda some: serving._replies.write(some)
answer = worker._Worker.answer
def answered(self, question):
    if "hostile" in str(question):
        {deed}
    return answer(self, question)
worker._Worker.answer = answered
worker.main()
"""
TEXT = """
import os
from models.isolation import serving, text_worker as worker
write = lambda some: serving._replies.write(some)
texts = worker._Worker()
def answered(question):
    if "hostile" in str(question):
        {deed}
    return texts.answer(question)
serving.serve(answered, memory_bytes=1 << 30, cpu_s=3, wall_s=20, niceness=0, keeps_nothing=False)
"""
DECODER = """
import os, sys
from server.jobs.inputs import decode_worker as worker
write = lambda some: (sys.stdout.buffer.write(some), sys.stdout.buffer.flush())
answer = worker._answer
def answered(ffmpeg, mime_type, source, target):
    if "hostile" in source:
        {deed}
    return answer(ffmpeg, mime_type, source, target)
worker._answer = answered
worker.main()
"""


def taken_over(script: str, deed: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", script.format(deed=DEEDS[deed]), *arguments)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The children in the order in which they were started."""
    processes: list[subprocess.Popen[bytes]] = []

    def recorded(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        processes.append(start(*args, **kwargs))
        return processes[-1]

    monkeypatch.setattr(child_module, "start", recorded)
    return processes


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        grown = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert grown < MOST_GROWN_BYTES, f"{grown >> 20} MiB"


@pytest.mark.parametrize("deed", DEEDS)
def test_a_reader_of_models_refuses_that_model_alone(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], deed: str
) -> None:
    chat_folder(tmp_path / "models/sound")
    chat_folder(tmp_path / "models/hostile")
    reader = IsolatedReader(tmp_path / "cache", "float32", quick_s=(5.0, 10.0), wall_s=10.0)
    reader._children = Children(lambda: taken_over(READER, deed, str(tmp_path / "cache"), "float32"))

    with little_memory():
        catalogue = open_catalogue(tmp_path, reader=reader)
    assert catalogue.names() == ["sound"]
    [refused] = catalogue.refused
    assert refused.name == "hostile"
    assert refused.reason.endswith("ended the process that reads models")
    assert len(refused.reason) < 300
    ended = [process for process in started if process.returncode is not None]
    assert len(ended) >= 2, "it was read twice"

    chat_folder(tmp_path / "models/another")
    assert open_catalogue(tmp_path, reader=reader).names() == ["another", "sound"]
    reader.close()


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("does", ["encodes", "renders"])
def test_a_reader_of_texts_refuses_that_text_alone(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, does: str, deed: str
) -> None:
    monkeypatch.setattr(confined, "COMMAND", taken_over(TEXT, deed))
    tokenizer = chat_tokenizer("chatml")
    child = confine(tokenizer, "m")

    def read(word: str) -> Any:
        if does == "encodes":
            return tokenizer.encode(word)
        turns = [{"role": "user", "content": word}]
        return tokenizer.apply_chat_template(turns, chat_template="{{ messages[0].content }}", tokenize=False)

    assert read("hello")
    with little_memory(), pytest.raises(PromptRefused):
        read("hostile")
    assert started[0].returncode is not None
    assert read("hello")
    assert len(started) == 2
    child.close()


@pytest.mark.parametrize("deed", [deed for deed in DEEDS if deed != "values of another class"])
def test_a_decoder_of_files_refuses_that_file_alone(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], deed: str
) -> None:
    decoder = Decoder(1, command=taken_over(DECODER, deed))

    def decode(name: str) -> Any:
        (tmp_path / name).write_bytes(encoded(sample(), "PNG"))
        return asyncio.run(decoder.decode("image/png", tmp_path / name, tmp_path / "made"))

    assert decode("sound").width == 6
    with little_memory(), pytest.raises(Refused, match=TOO_MUCH):
        decode("hostile")
    assert all(process.returncode is not None for process in started)
    assert decode("sound").width == 6
    decoder.close()


def test_what_a_child_writes_unasked_is_no_answer_to_the_next_question(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    late = """import threading; threading.Timer(0.1, write, [b'{"must_be": "late"}\\n']).start()"""
    decoder = Decoder(1, command=(sys.executable, "-c", DECODER.replace("{deed}", late)))
    path = tmp_path / "hostile"
    path.write_bytes(encoded(sample(), "PNG"))

    assert asyncio.run(decoder.decode("image/png", path, tmp_path / "made")).width == 6
    [child] = decoder._children._all
    while child.is_ready:
        pass  # until the line is there
    sound = tmp_path / "sound"
    sound.write_bytes(encoded(sample(), "PNG"))
    assert asyncio.run(decoder.decode("image/png", sound, tmp_path / "made")).width == 6
    assert len(started) == 2
    decoder.close()
