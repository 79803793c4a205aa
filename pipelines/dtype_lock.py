"""What loading changes for the whole process is kept from the threads of other devices. Any thread.

The libraries patch torch while they load weights or adapters: loads take turns. And while they build a model they make its precision torch's default, by which
a step elsewhere would choose its own: then no other device works. A thread that is about to begins once the model is built, and one inside a forward gives way.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # the threads that use this bring it; whoever makes them need not wait for it

_turn = threading.RLock()  # one load at a time
_change = threading.Condition()
_working: set[int] = set()  # threads
_builder: int | None = None  # the thread that builds under another default, or waits until nobody else works


@contextmanager
def working() -> Iterator[None]:
    """Around whatever a device thread does with torch."""
    me = threading.get_ident()
    _begin_work(me)
    try:
        yield
    finally:
        _end_work(me)


def others_wait() -> bool:
    """Whether a load waits for this thread to end what it does."""
    return _builder is not None


@contextmanager
def loading() -> Iterator[None]:
    """Around what a library loads."""
    import torch

    me = threading.get_ident()
    worked = me in _working
    if worked:  # who waits for its turn does not work: the one whose turn it is may wait for that
        _end_work(me)
    with _turn:
        if worked:
            _begin_work(me)
        usual, set_default = torch.get_default_dtype(), torch.set_default_dtype
        torch.set_default_dtype = functools.partial(_set_default, set_default, usual)
        try:
            yield
        finally:
            torch.set_default_dtype = set_default
            _set_default(set_default, usual, usual)  # a library that failed halfway has left its own


def _set_default(set_default: Callable[[torch.dtype], None], usual: torch.dtype, dtype: torch.dtype) -> None:
    global _builder
    with _change:
        if dtype != usual:
            _builder = threading.get_ident()
            _change.wait_for(lambda: _working <= {_builder})
        set_default(dtype)
        if dtype == usual:
            _builder = None
            _change.notify_all()


def _begin_work(me: int) -> None:
    with _change:
        _change.wait_for(lambda: _builder in (None, me))
        _working.add(me)


def _end_work(me: int) -> None:
    with _change:
        _working.discard(me)
        _change.notify_all()
