"""Asks the terminal which graphics protocol it supports, because environment variables are wrong under tmux and ssh.

The terminal gets three queries at once. Every terminal answers the last one, its attributes, which ends the wait.
"""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from typing import Literal, TypeAlias

Graphics: TypeAlias = Literal["kitty", "iterm", "sixel", "blocks", "none"]

# Source: kitty graphics protocol, "Querying support and available transmission mediums".
KITTY = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"  # can it show a pixel?
VERSION = b"\x1b[>q"  # XTVERSION: name of the terminal
ATTRIBUTES = b"\x1b[c"  # DA1: attribute 4 is sixel
ANSWERED = re.compile(rb"\x1b\[\?([\d;]*)c")
TIMEOUT_S = 0.5  # an intercontinental ssh connection answers in 0.3 s
UNQUERYABLE = ("dumb", "linux")  # these terminals print a query that they do not understand


def graphics(*, colours: bool) -> Graphics:
    """Returns the best protocol of this process's terminal. `colours`: the terminal has at least 256 colours."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return "none"
    plain: Graphics = "blocks" if colours else "none"
    if os.environ.get("TERM", "dumb") in UNQUERYABLE or os.environ.get("TERM_PROGRAM") == "Apple_Terminal":
        return plain
    return understand(ask(sys.stdin.fileno(), sys.stdout.fileno())) or plain


def understand(answers: bytes) -> Literal["kitty", "iterm", "sixel"] | None:
    """Returns the protocol that the answers report, or None."""
    attributes = ANSWERED.search(answers)
    if b"\x1b_Gi=31;OK" in answers:
        return "kitty"
    if b"\x1bP>|iTerm2" in answers:
        return "iterm"
    if attributes and b"4" in attributes[1].split(b";")[1:]:  # the first number is the terminal's class
        return "sixel"
    return None


def ask(stdin: int, stdout: int) -> bytes:
    """Returns the terminal's answers up to its attributes, or those that arrived before the timeout."""
    before = termios.tcgetattr(stdin)
    answers, deadline = b"", time.monotonic() + TIMEOUT_S
    try:
        tty.setcbreak(stdin)  # no echo, because the answers arrive as keyboard input
        os.write(stdout, KITTY + VERSION + ATTRIBUTES)
        while not ANSWERED.search(answers) and (left_s := deadline - time.monotonic()) > 0:
            if select.select([stdin], [], [], left_s)[0]:
                answers += os.read(stdin, 1024)
    finally:
        termios.tcsetattr(stdin, termios.TCSANOW, before)
    return answers
