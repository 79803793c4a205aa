"""`chat` against a real server with a fake engine."""

from __future__ import annotations

import json

import pytest

from tests.fakes import messages_in
from tests.support.http.command_line import run
from tests.support.http.served import Served

pytestmark = pytest.mark.usefixtures("use_server_and_folder")


def test_chat_prints_the_reply_to_an_argument_and_to_standard_input(server: Served) -> None:
    assert run("chat", "Hello").stdout == "You said: Hello\n"
    assert run("chat", stdin="Hello\nthere").stdout == "You said: Hello\nthere\n"
    reply = json.loads(run("chat", "Hello", "--json", "--system", "Be short.", "--model", "talker").stdout)
    assert (reply["reply"], reply["model"], reply["usage"]["completionTokens"]) == ("You said: Hello", "talker", 5)
    assert reply["timestamp"] == "2026-11-24T09:00:00.000Z"  # in the server's format


class TerminalSys:
    """Replaces `sys` in the command, so that standard input counts as a terminal."""

    class stdin:
        @staticmethod
        def isatty() -> bool:
            return True

    class stdout:
        @staticmethod
        def flush() -> None:
            pass


def test_a_conversation_lasts_until_exit(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["One", "", "/help", "Two", "/new", "Three", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.setattr("server.cli.chat.sys", TerminalSys())
    before = len(server.f.engine.jobs)
    result = run("chat")

    assert result.exit_code == 0
    assert result.stdout == "You said: One\nYou said: Two\nYou said: Three\n"
    requests = [job.requests[0] for job in list(server.f.engine.jobs.values())[before:]]
    assert [len(messages_in(request.prompt)) for request in requests] == [1, 3, 1]  # type: ignore[union-attr]  # chats
