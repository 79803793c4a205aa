"""Sends mutations of bodies to a route, and fails on the first reply that is not as it should be, or does not come."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import httpx
import pytest

from tests.support.http.front import Front
from tests.support.http.mutations import mutated

MAX_BYTES = 1_000_000  # of a mutated body, so that the test ends soon; tests of single requests send larger ones
LIMIT_S = 10.0  # of one request, on a machine that is busy with other tests


async def send_mutations(
    f: Front,
    paths: Sequence[str],
    bodies: Sequence[Any],
    n_mutations: int,
    fault_of: Callable[[httpx.Response], str | None],
) -> Counter[int]:
    """Returns how often each status was answered. fault_of: what is wrong with a reply, or None."""
    random = Random(13)
    statuses: Counter[int] = Counter()
    for number in range(n_mutations):
        content = mutated(random.choice(bodies), random, MAX_BYTES)
        try:
            async with asyncio.timeout(LIMIT_S):
                reply = await f.post(random.choice(paths), content)
        except TimeoutError:
            pytest.fail(f"mutation {number} hangs: {content[:2000]!r}")
        fault = fault_of(reply)
        assert fault is None, f"mutation {number}: {fault}: {reply.text[:500]} to {content[:2000]!r}"
        statuses[reply.status_code] += 1
        f.engine.jobs.clear()
    return statuses
