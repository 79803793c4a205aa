"""The queries to a terminal, and what its answers mean."""

from __future__ import annotations

import os
import threading

import pytest

from server.cli import terminal_graphics


@pytest.mark.parametrize(
    ("answers", "protocol"),
    [
        (b"\x1b_Gi=31;OK\x1b\\\x1bP>|kitty(0.42)\x1b\\\x1b[?62;c", "kitty"),
        (b"\x1b_Gi=31;EINVAL:no\x1b\\\x1b[?62;c", None),
        (b"\x1bP>|iTerm2 3.5.0\x1b\\\x1b[?65;1;9c", "iterm"),
        (b"\x1bP>|tmux 3.4\x1b\\\x1b[?1;2;4c", "sixel"),
        (b"\x1b[?4c", None),
        (b"\x1b[?64;14;40c", None),
        (b"", None),
    ],
)
def test_the_answers_of_a_terminal_select_the_protocol(answers: bytes, protocol: str | None) -> None:
    assert terminal_graphics.understand(answers) == protocol


def test_a_query_leaves_the_terminal_settings_unchanged() -> None:
    import pty
    import termios

    emulator, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    queries = []

    def answer() -> None:
        queries.append(os.read(emulator, 1000))
        os.write(emulator, b"\x1b[?62;4c")

    answering = threading.Thread(target=answer)
    answering.start()
    answers = terminal_graphics.ask(terminal, terminal)
    answering.join()
    after = termios.tcgetattr(terminal)
    os.close(emulator)
    os.close(terminal)

    assert answers == b"\x1b[?62;4c"
    assert queries == [terminal_graphics.KITTY + terminal_graphics.VERSION + terminal_graphics.ATTRIBUTES]
    assert after == before


def test_output_that_is_not_a_terminal_gets_no_image() -> None:
    assert terminal_graphics.graphics(colours=True) == "none"  # standard output is not a terminal under pytest
