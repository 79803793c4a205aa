"""Keeps what loading changes for the whole process away from the threads of other devices. Any thread.

The libraries patch torch while they load weights or adapters, so loads take turns. While they build a model they also
set torch's default dtype, from which a step elsewhere would choose its own dtype. So no other device works then: a
thread that is about to start waits until the model is built, and one inside a forward yields.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # imported late: the event loop imports this module before the device threads have loaded torch

# Module globals, because torch's default dtype is one for the whole process.
_load_lock = threading.RLock()  # one load at a time
_condition = threading.Condition()
_working: set[int] = set()  # ids of threads that work with torch
_builder: int | None = None  # the thread that builds under another default dtype, or waits until no other thread works


@contextmanager
def working() -> Iterator[None]:
    """Around whatever a device thread does with torch."""
    thread = threading.get_ident()
    _begin_work(thread)
    try:
        yield
    finally:
        _end_work(thread)


def others_wait() -> bool:
    """Whether a load waits until this thread stops working."""
    return _builder is not None


@contextmanager
def loading() -> Iterator[None]:
    """Around code in which a library loads weights."""
    import torch

    thread = threading.get_ident()
    was_working = thread in _working
    if was_working:  # while this thread waits for the lock it does not work: the thread that loads may wait for that
        _end_work(thread)
    with _load_lock:
        if was_working:
            _begin_work(thread)
        usual, set_default = torch.get_default_dtype(), torch.set_default_dtype
        torch.set_default_dtype = functools.partial(_set_default, set_default, usual)
        try:
            yield
        finally:
            torch.set_default_dtype = set_default
            _set_default(set_default, usual, usual)  # a library that failed halfway has left its own default


def _set_default(set_default: Callable[[torch.dtype], None], usual: torch.dtype, dtype: torch.dtype) -> None:
    global _builder
    with _condition:
        if dtype != usual:
            _builder = threading.get_ident()
            _condition.wait_for(lambda: _working <= {_builder})
        set_default(dtype)
        if dtype == usual:
            _builder = None
            _condition.notify_all()


def _begin_work(thread: int) -> None:
    with _condition:
        _condition.wait_for(lambda: _builder in (None, thread))
        _working.add(thread)


def _end_work(thread: int) -> None:
    with _condition:
        _working.discard(thread)
        _condition.notify_all()
