"""Generators that are merged into one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from server.service.merge import merged

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Source:
    """A generator whose items a test hands out one by one."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.closed = False

    async def generate(self) -> AsyncGenerator[int]:
        try:
            while (item := await self.items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed = True


async def test_items_come_out_in_the_order_in_which_the_sources_make_them() -> None:
    a, b = Source(), Source()
    both = merged([a.generate(), b.generate()])
    seen = []
    for source, item in ((a, 1), (b, 2), (b, 3), (a, 4)):
        source.items.put_nowait(item)
        seen.append(await anext(both))
    for source in (a, b):
        source.items.put_nowait(None)

    assert seen == [1, 2, 3, 4]
    assert [item async for item in both] == []


async def test_one_source_passes_through() -> None:
    a = Source()
    for item in (1, 2, None):
        a.items.put_nowait(item)

    assert [item async for item in merged([a.generate()])] == [1, 2]
    assert a.closed


@pytest.mark.parametrize("n_sources", [1, 2, 3])
async def test_an_error_of_one_source_closes_all_and_passes_through(n_sources: int) -> None:
    sources = [Source() for _ in range(n_sources)]
    sources[0].items.put_nowait(ValueError("broken"))

    items = merged([source.generate() for source in sources])
    with pytest.raises(ValueError, match="broken"):
        await anext(items)
    assert sources[0].closed
    assert all(source.closed or source.items.empty() for source in sources)


@pytest.mark.parametrize("n_sources", [1, 2])
async def test_closing_early_closes_the_sources(n_sources: int) -> None:
    sources = [Source() for _ in range(n_sources)]
    for source in sources:
        source.items.put_nowait(1)

    async with aclosing(merged([source.generate() for source in sources])) as items:
        for _ in sources:
            await anext(items)

    assert all(source.closed for source in sources)
