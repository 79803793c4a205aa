"""Merges asynchronous generators into one that yields items as they come. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


async def merged(sources: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[T]:
    """Yields the items of all sources until all have ended. When one raises, or this is closed, all are closed."""
    if len(sources) == 1:
        async with aclosing(sources[0]) as items:
            async for item in items:
                yield item
        return
    queue: asyncio.Queue[_Item[T] | BaseException | None] = asyncio.Queue()  # an error or None: a source has ended
    tasks = [asyncio.create_task(_forward(source, queue)) for source in sources]
    try:
        n_open = len(sources)
        while n_open:
            match await queue.get():
                case _Item(value):
                    yield value
                case None:
                    n_open -= 1
                case error:
                    raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(source: AsyncGenerator[T], queue: asyncio.Queue[_Item[T] | BaseException | None]) -> None:
    try:
        async with aclosing(source) as items:
            async for item in items:
                queue.put_nowait(_Item(item))
    except BaseException as error:
        queue.put_nowait(error)
        raise
    queue.put_nowait(None)
