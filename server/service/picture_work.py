"""Runs work on the pixels of pictures on two threads. Event loop only.

Two are enough for requests that wait for a model anyway, and bound the memory: a large picture takes 150 MB a copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Of the whole process, like the memory that it bounds. Its threads are started by the first picture.
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="pixels")


async def work_on(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(function, *args, **kwargs))
