"""The processes that decode files of clients: bounded, replaced when they die or hang, and gone with the server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from server.errors import Unavailable
from server.jobs.inputs.decoded import Decoded, Refused
from server.jobs.inputs.decoder import COMMAND, TOO_MUCH, Decoder
from tests.support.odd_files.case import encoded, sample
from tests.support.paths import ROOT

PNG = encoded(sample(), "PNG")
# Stand in for the process: each reads a file's line and does something else than to answer.
CRASHES = "import sys, os; sys.stdin.readline(); os.abort()"
ENDS = "import sys; sys.stdin.readline()"
HANGS = "import sys, time; sys.stdin.readline(); time.sleep(600)"
ENDS_AT_ONCE = "pass"
TELLS_ITS_ENVIRONMENT = "import os, sys; sys.stdin.readline(); print('{\"must_be\": \"' + ' '.join(os.environ) + '\"}')"


def running(script: str) -> Sequence[str]:
    return (sys.executable, "-c", script)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "sent"
    path.write_bytes(PNG)
    return path


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder(1)
    yield made
    made.close()


def decode(decoder: Decoder, source: Path, mime_type: str = "image/png") -> Decoded:
    return asyncio.run(decoder.decode(mime_type, source, source.with_name("made")))


def process_of(decoder: Decoder) -> int:
    [process] = decoder._children._all
    return process._process.pid


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_no_process_runs_before_the_first_file_and_one_reads_many(decoder: Decoder, source: Path) -> None:
    assert not decoder._children._all

    assert decode(decoder, source) == Decoded("image/png", 6, 4)
    first = process_of(decoder)
    decode(decoder, source)
    assert process_of(decoder) == first


def test_a_process_that_was_killed_while_idle_is_replaced(decoder: Decoder, source: Path) -> None:
    decode(decoder, source)
    first = process_of(decoder)
    os.kill(first, signal.SIGKILL)

    assert decode(decoder, source).width == 6
    assert process_of(decoder) != first


@pytest.mark.parametrize("script", [CRASHES, ENDS, ENDS_AT_ONCE])
def test_a_file_that_ends_the_process_is_refused(source: Path, script: str) -> None:
    decoder = Decoder(1, command=running(script))
    with pytest.raises(Refused, match=TOO_MUCH):
        decode(decoder, source)

    assert not decoder._children._all
    decoder.close()


def test_a_file_that_takes_too_long_is_refused_and_its_process_ended(source: Path) -> None:
    decoder = Decoder(1, command=running(HANGS), wall_s=0.2)
    with pytest.raises(Refused, match=TOO_MUCH):
        decode(decoder, source)

    assert not decoder._children._all
    decoder.close()


def test_the_end_of_the_server_ends_a_file_that_is_being_decoded(source: Path) -> None:
    decoder = Decoder(1, command=running(HANGS))

    async def close_meanwhile() -> None:
        waiting = asyncio.create_task(decoder.decode("image/png", source, source.with_name("made")))
        while not decoder._children._all:  # noqa: ASYNC110  # a thread starts it
            await asyncio.sleep(0)
        pid = process_of(decoder)
        await asyncio.to_thread(decoder.close)
        with pytest.raises((Refused, Unavailable)):
            await waiting
        assert is_gone(pid)
        with pytest.raises(Unavailable):
            await decoder.decode("image/png", source, source.with_name("made"))

    asyncio.run(close_meanwhile())


def test_a_process_that_cannot_be_started_is_the_servers_fault(source: Path) -> None:
    decoder = Decoder(1, command=("/does/not/exist",))
    with pytest.raises(Unavailable):
        decode(decoder, source)
    decoder.close()


def test_a_file_that_cannot_be_read_or_written_is_the_servers_fault(decoder: Decoder, source: Path) -> None:
    with pytest.raises(OSError, match="FileNotFoundError"):
        asyncio.run(decoder.decode("image/png", source.with_name("missing"), source.with_name("made")))

    assert decode(decoder, source).width == 6


def test_the_process_knows_no_secrets_of_the_environment(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTNAME_DATABASE_URL", "postgresql://me:hunter2@db")
    monkeypatch.setenv("HF_TOKEN", "hf_1")
    decoder = Decoder(1, command=running(TELLS_ITS_ENVIRONMENT))
    with pytest.raises(Refused) as refused:
        decode(decoder, source)
    decoder.close()

    assert set(str(refused.value).split()) <= {
        "PATH",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_and_files_of_the_process_are_bounded(decoder: Decoder, source: Path) -> None:
    decode(decoder, source)
    limits = Path(f"/proc/{process_of(decoder)}/limits").read_text()
    bounds = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()[1:]}

    assert bounds["Max address space"] == str(2**30)
    assert bounds["Max file size"] == str(2**29)
    assert bounds["Max core file size"] == "0"


def test_the_process_imports_no_torch_and_ends_when_its_input_closes() -> None:
    listed = "import sys, server.jobs.inputs.decode_worker; print({'torch', 'numpy'} & sys.modules.keys())"
    imported = subprocess.run([sys.executable, "-c", listed], cwd=ROOT, capture_output=True, text=True, check=True)
    ended = subprocess.run([*COMMAND, "ffmpeg"], cwd=ROOT, input=b"", capture_output=True, timeout=30, check=False)

    assert imported.stdout.strip() == "set()"
    assert (ended.returncode, ended.stdout) == (0, b"")
