"""The messages of one turn: the system prompt that applies, and which messages go when the context is too long."""

from __future__ import annotations

from pipelines.chat_interface import Message
from server.service.chat_context import ChatContext

SYSTEM, RULES = Message("system", "Server's."), Message("system", "Client's.")
ASK, CALL, RESULT, SAY = (
    Message("user", "?"),
    Message("assistant", ""),
    Message("tool", "42"),
    Message("assistant", "!"),
)
NOW = Message("user", "Now?")


def shortened(history: list[Message]) -> list[tuple[Message, ...]]:
    """Returns the history after each shortening, until nothing is left to leave out."""
    context = ChatContext(None, history, [NOW])
    found = []
    while context.shorten():
        found.append(context.messages[:-1])
        assert context.messages[-1] == NOW
        assert context.n_left_out == len(history) - len(found[-1])
    return found


def test_the_servers_system_prompt_gives_way_to_the_clients_wherever_it_stands() -> None:
    assert ChatContext("Server's.", [], [NOW]).messages == (SYSTEM, NOW)
    assert ChatContext("Server's.", [], [NOW], [RULES]).messages == (RULES, NOW)
    assert ChatContext("Server's.", [], [RULES, NOW]).messages == (RULES, NOW)
    assert ChatContext(None, [ASK, SAY], [NOW], [RULES]).messages == (RULES, ASK, SAY, NOW)


def test_a_history_is_shortened_in_whole_turns_until_it_is_empty() -> None:
    assert shortened([ASK, SAY] * 4) == [(ASK, SAY) * 2, (ASK, SAY), ()]
    assert shortened([ASK, SAY]) == [()]


def test_no_result_of_a_tool_loses_its_call() -> None:
    assert shortened([ASK, CALL, RESULT, SAY, ASK, CALL, RESULT, SAY]) == [(ASK, CALL, RESULT, SAY), ()]
    assert shortened([ASK, SAY, ASK, CALL, RESULT, SAY]) == [
        (),
    ]
    assert shortened([SAY]) == [()]
