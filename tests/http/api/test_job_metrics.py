"""What was measured of a job, and what was not done quite as asked, reach its status."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from server.protocol import OutputReady
from tests.support.front import front

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_the_largest_measured_peak_and_each_warning_once_are_in_the_status(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        deliver = f.engine.deliver
        peaks = iter((700, 900, None))

        def measured(event) -> None:
            if isinstance(event, OutputReady):
                event = replace(
                    event, peak_bytes=next(peaks), warnings=("Its weights visit the device block by block.",)
                )
            deliver(event)

        f.engine.deliver = measured
        status = await f.complete(n=3)

    assert status["metrics"]["peakBytes"] == 900
    assert status["warnings"] == ["Its weights visit the device block by block."]


async def test_a_job_of_which_nothing_was_measured_says_so(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        status = await f.complete()

    assert status["metrics"]["peakBytes"] is None
    assert status["warnings"] == []
