"""`chat` against a real server with a fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.client import AgentName, ChatDelta, ChatReply
from tests.fakes import messages_in
from tests.support.http.command_line import run
from tests.support.http.served import Served
from tests.support.http.thinking import REPLY, THOUGHT, thinking

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
        def isatty() -> bool:
            return True

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


SHOWN = f"Thinking...\n{THOUGHT}\n...done thinking.\n\n{REPLY}\n"


def test_a_pipe_gets_the_reply_without_the_thinking_unless_it_asks_for_it(server: Served) -> None:
    with thinking(server.f.engine):
        assert run("chat", "Hi").stdout == f"{REPLY}\n"
        assert run("chat", "Hi", "--show-thinking").stdout == SHOWN
        whole = json.loads(run("chat", "Hi", "--json").stdout)

    assert (whole["reply"], whole["thinking"], whole["usage"]["thinkingTokens"]) == (REPLY, THOUGHT, 3)
    assert "thinking" not in json.loads(run("chat", "Hi", "--json").stdout)


def test_a_terminal_shows_thinking_dimmed(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.cli.reply_printer.sys", TerminalSys())
    with thinking(server.f.engine):
        shown = CliRunner().invoke(app, ["chat", "Hi"], color=True).stdout
        hidden = CliRunner().invoke(app, ["chat", "Hi", "--hide-thinking"], color=True).stdout

    assert f"\x1b[2m{THOUGHT}\x1b[0m" in shown
    assert shown.endswith(f"\x1b[0m{REPLY}\n")
    assert hidden == f"{REPLY}\n"


def test_a_stored_conversation_is_shown_with_its_thinking(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with thinking(server.f.engine):
        conversation_id = json.loads(run("chat", "Hi", "--json").stdout)["conversationId"]
    assert run("conversations", "show", conversation_id).stdout == f">>> Hi\n{REPLY}\n"
    monkeypatch.setattr("server.cli.reply_printer.sys", TerminalSys())
    assert run("conversations", "show", conversation_id).stdout == f">>> Hi\n{SHOWN}"


class ScriptedChat:
    """Replaces the client's `stream_chat`: yields the pieces, and records the options of each message."""

    def __init__(self, *pieces: ChatDelta | ChatReply | type[BaseException]) -> None:
        self._pieces = pieces
        self.options: list[dict[str, Any]] = []

    def __call__(self, message: str, **options: Any) -> Iterator[ChatDelta | ChatReply]:
        self.options.append(options)
        for piece in self._pieces:
            if isinstance(piece, type):
                raise piece
            yield piece


def whole_reply(**fields: Any) -> ChatReply:
    usage = {"promptTokens": 1, "completionTokens": 1}
    given = {"reply": "", "timestamp": "2026-11-24T09:00:00Z", "conversationId": "c", "model": "m", "usage": usage}
    return ChatReply.model_validate(given | {"finishReason": "stop"} | fields)


@pytest.fixture
def type_lines(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that holds a conversation in which a user types the lines."""

    def converse(chat: ScriptedChat, *lines: str, options: tuple[str, ...] = ()) -> Any:
        typed = iter(lines)
        monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
        monkeypatch.setattr("server.cli.chat.sys", TerminalSys())
        monkeypatch.setattr("server.cli.reply_printer.sys", TerminalSys())
        monkeypatch.setattr(AgentName, "stream_chat", chat)
        return run("chat", *options)

    return converse


def test_thinking_is_set_by_an_option_and_in_a_conversation(type_lines: Any) -> None:
    chat = ScriptedChat(whole_reply(reply="Yes."))
    lines = ("1", "/think", "2", "/think", "3", "/think high", "4", "/think much", "5", "/exit")
    result = type_lines(chat, *lines, options=("--thinking", "low"))

    assert [options["thinking"] for options in chat.options] == ["low", False, True, "high", "high"]
    assert "Thinking: off.\nThinking: on.\nThinking: high.\n" in result.stderr
    assert result.stderr.count("/think low") == 2  # at the beginning, and for "much"


def test_the_model_decides_about_thinking_by_default(type_lines: Any) -> None:
    chat = ScriptedChat(whole_reply(reply="Yes."))
    type_lines(chat, "Hi", "/exit")

    assert chat.options == [{}]


def test_ctrl_c_while_the_model_thinks_ends_the_reply_and_not_the_conversation(type_lines: Any) -> None:
    chat = ScriptedChat(ChatDelta(text="", thinking="Well"), KeyboardInterrupt)
    result = type_lines(chat, "One", "Two", "/exit")

    assert result.exit_code == 0
    assert result.stdout == 2 * "Thinking...\nWell\n"
    assert "conversation_id" not in chat.options[1]


def test_ctrl_c_ends_a_command_with_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AgentName, "stream_chat", ScriptedChat(ChatDelta(text="", thinking="Well"), KeyboardInterrupt))

    assert run("chat", "Hi").exit_code == 130


def test_warnings_and_a_reply_that_ended_in_its_thinking_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    end = whole_reply(thinking="Well", warnings=["max_tokens was lowered."], finishReason="length")
    monkeypatch.setattr(AgentName, "stream_chat", ScriptedChat(ChatDelta(text="", thinking="Well"), end))
    result = run("chat", "Hi")

    assert result.stdout == "\n"
    assert result.stderr == (
        "Note: max_tokens was lowered.\nNote: There is no reply: it ended while the model was thinking.\n"
    )
