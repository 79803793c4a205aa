"""Tries in a process of its own whether a grammar can be read in little time: the library cannot be interrupted.

Run as a program it reads the grammar from its standard input and ends with status 0, or is ended by a signal. Limits
bound most of what a grammar may cost, but not finding out what several regular expressions have in common.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher, LLParserLimits

CPU_S = 0.2  # of reading one grammar; large schemas take a tenth
WALL_S = 5.0  # on a machine that is busy
MAX_BYTES = 2 << 30  # of memory
CHEAP_CHARS = 8 << 10
COSTLY = ('"pattern', '"multipleOf"', '"allOf"', "&", "~", "\\u")  # the last may spell any of the others


def is_cheap(text: str) -> bool:
    """Whether a grammar, in Lark's form, is read in milliseconds whatever it says."""
    return len(text) <= CHEAP_CHARS and not any(each in text for each in COSTLY)


def ends_in_time(text: str, limits: Mapping[str, Any]) -> bool:
    """Whether the grammar, in Lark's form, is read in time. Blocks, 0.1 s for most grammars."""
    command = [sys.executable, "-I", os.path.abspath(__file__), json.dumps(limits)]
    from pipelines.child_process import run  # here, because the program below does not find it

    try:
        done = run(command, timeout_s=WALL_S, text=text.encode())
    except subprocess.SubprocessError:  # it takes too long, or the library has too much to say about it
        return False
    return done.returncode == 0


def _try(limits: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    text = sys.stdin.buffer.read().decode()
    signal.setitimer(signal.ITIMER_PROF, CPU_S)  # its signal ends a process, also inside the library
    LLMatcher.validate_grammar(text, None, limits=LLParserLimits(**limits))


if __name__ == "__main__":  # by its path: the packages above would bring torch
    _try(json.loads(sys.argv[1]))
