"""Parses Python source. Any thread."""

from __future__ import annotations

import ast
import threading

TRIES = 5

# The interpreter counts the depth of a tree in one place for all threads, so they take turns here.
_LOCK = threading.Lock()


def parse(text: str | bytes) -> ast.Module:
    """As `ast.parse`. Python before 3.11.8 and 3.12.1 fails at random while another thread parses, be it in a library
    (github.com/python/cpython/issues/106905): it is tried again then.
    """
    with _LOCK:
        for _ in range(TRIES - 1):
            try:
                return ast.parse(text)
            except SystemError:
                continue
        return ast.parse(text)
