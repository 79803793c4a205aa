"""Panics of libraries that are compiled from Rust. Any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from models.errors import BadModel

T = TypeVar("T")


def is_panic(error: BaseException) -> bool:
    """Whether it is a panic: a class of its own in each such library, which is no `Exception`."""
    return type(error).__name__ == "PanicException"


def without_panic(work: Callable[[], T]) -> T:
    """Does the work of a worker thread. Raises `BadModel` where a library panics on the files of a model."""
    try:
        return work()
    except BaseException as error:
        if is_panic(error):
            raise BadModel("a library fails on its tokenizer", detail=str(error)[:500]) from error
        raise
