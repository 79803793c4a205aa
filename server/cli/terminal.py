"""What a terminal can show, by asking it: names in the environment lie as soon as tmux or ssh is in between.

It is sent three questions at once. Every terminal answers the last (its attributes), so waiting ends there.
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

KITTY = (
    b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"  # may a pixel be shown? (kitty graphics protocol, "Querying support")
)
VERSION = b"\x1b[>q"  # XTVERSION: your name
ATTRIBUTES = b"\x1b[c"  # DA1: attribute 4 is sixel
ANSWERED = re.compile(rb"\x1b\[\?([\d;]*)c")
TIMEOUT_S = 0.5  # ssh across an ocean answers in 0.3 s
SILENT = ("dumb", "linux")  # these print questions they do not understand


def graphics(*, colours: bool) -> Graphics:
    """The best that the terminal of this process can show; `colours`: it has 256 at least."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return "none"
    plain: Graphics = "blocks" if colours else "none"
    if os.environ.get("TERM", "dumb") in SILENT or os.environ.get("TERM_PROGRAM") == "Apple_Terminal":
        return plain
    return understand(ask(sys.stdin.fileno(), sys.stdout.fileno())) or plain


def understand(answers: bytes) -> Literal["kitty", "iterm", "sixel"] | None:
    attributes = ANSWERED.search(answers)
    if b"\x1b_Gi=31;OK" in answers:
        return "kitty"
    if b"\x1bP>|iTerm2" in answers:
        return "iterm"
    if attributes and b"4" in attributes[1].split(b";")[1:]:  # the first number is the terminal's class
        return "sixel"
    return None


def ask(stdin: int, stdout: int) -> bytes:
    """What the terminal says, up to its attributes; what it said in time, when it does not say those."""
    before = termios.tcgetattr(stdin)
    answers, deadline = b"", time.monotonic() + TIMEOUT_S
    try:
        tty.setcbreak(stdin)  # no echo: the answers arrive as if typed
        os.write(stdout, KITTY + VERSION + ATTRIBUTES)
        while not ANSWERED.search(answers) and (left_s := deadline - time.monotonic()) > 0:
            if select.select([stdin], [], [], left_s)[0]:
                answers += os.read(stdin, 1024)
    finally:
        termios.tcsetattr(stdin, termios.TCSANOW, before)
    return answers
