"""`conversations` against a real server with a fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http.command_line import run, use_server
from tests.support.http.served import Served, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture(autouse=True)
def use_server_and_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Served) -> None:
    use_server(monkeypatch, server)
    monkeypatch.chdir(tmp_path)


def test_conversations_are_continued_renamed_listed_shown_and_deleted(server: Served) -> None:
    conversation_id = json.loads(run("chat", "I am Ann.", "--json").stdout)["conversationId"]
    assert run("chat", "Who am I?", "--conversation", conversation_id).exit_code == 0
    assert run("conversations", "rename", conversation_id, "Ann's").stdout == "Ann's\n"
    table = run("conversations", "list").stdout
    assert conversation_id in table
    assert "Ann's" in table
    page = json.loads(run("conversations", "list", "--limit", "1", "--json").stdout)
    assert page["conversations"][0]["title"] == "Ann's"
    assert run("conversations", "show", conversation_id).stdout == (
        ">>> I am Ann.\nYou said: I am Ann.\n>>> Who am I?\nYou said: Who am I?\n"
    )
    assert len(json.loads(run("conversations", "show", conversation_id, "--json").stdout)["messages"]) == 4
    assert run("conversations", "forget", conversation_id).exit_code == 0
    assert run("conversations", "show", conversation_id).exit_code == 2
