"""Whatever bytes a client without a key sends, it gets an error of the usual form or none, and others are served."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.http.front import front
from tests.support.http.http_front import listening
from tests.support.http.raw_requests import RawInput, raw_inputs

pytestmark = pytest.mark.anyio

N_INPUTS = 200  # benchmarks/raw_http.py sends thousands


async def reply_to(port: int, given: RawInput) -> bytes:
    """What comes within a moment: half a request gets no reply for long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in given.pieces:
            writer.write(piece)
            await writer.drain()
        if given.half_closes:
            writer.write_eof()
        async with asyncio.timeout(0.05):
            return await reader.read(65_536)
    except (TimeoutError, ConnectionError):
        return b""
    finally:
        writer.transport.abort()


async def test_damaged_requests_never_end_in_a_bug_or_in_silence_for_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    statuses: set[int] = set()
    async with front(tmp_path) as f, listening(f) as url:
        port = int(url.rpartition(":")[2])
        inputs = list(raw_inputs(seed=7, n=N_INPUTS))
        for at in range(0, N_INPUTS, 20):
            for reply in await asyncio.gather(*(reply_to(port, given) for given in inputs[at : at + 20])):
                if reply:
                    head = re.match(rb"HTTP/1\.1 (\d{3}) [A-Za-z ]+\r\n", reply)
                    assert head is not None, reply
                    statuses.add(int(head[1]))
        valid = RawInput([b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"], half_closes=False, reads=True)
        assert (await reply_to(port, valid)).startswith(b"HTTP/1.1 200 ")

    assert statuses >= {200, 400, 401, 431}
    assert max(statuses) < 500
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
