"""`ps`, `load`, `stop`, `pin`, `unpin` and `list` against a small HTTP server, and how a refusal ends a command."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.accounts.auth import write_local_key
from tests.support.http.command_line import run, use_folder
from tests.support.http.scripted_server import ScriptedServer, scripted_server


@pytest.fixture(autouse=True)
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return use_folder(monkeypatch, tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Iterator[type[ScriptedServer]]:
    with scripted_server() as (handler, port):
        data_dir.mkdir()
        write_local_key(data_dir)
        monkeypatch.setenv("AGENTNAME_PORT", str(port))
        yield handler


def test_ps_shows_models_memory_and_jobs(server: type[ScriptedServer], data_dir: Path) -> None:
    result = run("ps")

    assert result.exit_code == 0
    assert "tiny-scenes  image  24.0 MiB  resident  CPU" in result.stdout
    assert re.search(r"\d+h \d+m +1\+2", result.stdout)
    assert "CPU: 2.0 GiB of 8.0 GiB used, 6.0 GiB free" in result.stdout
    assert "job_1_abc  image  tiny-scenes  processing  46%" in result.stdout
    assert server.authorization == f"Bearer {(data_dir / 'local-key').read_text().strip()}"


def test_load_waits_until_the_model_is_loaded_and_names_the_device(server: type[ScriptedServer]) -> None:
    result = run("load", "tiny-scenes", "--keep-alive", "10m")

    assert result.stdout == "tiny-scenes is in memory: 24.0 MiB on CPU.\n"
    assert server.posted == [("/api/models/tiny-scenes/load", {"keepAlive": "10m"})]


def test_a_failed_load_is_reported_with_the_time_of_the_next_try(server: type[ScriptedServer]) -> None:
    server.model = {"state": "failed", "devices": [], "retryInSeconds": 9}
    result = run("load", "tiny-scenes")

    assert result.exit_code == 1
    assert "tried again in 9 s" in result.stderr


def test_a_failed_load_is_reported_with_the_librarys_own_error(server: type[ScriptedServer]) -> None:
    failure = {"message": "tiny-scenes failed to load.", "detail": "ValueError: odd weights"}
    server.model = {"state": "failed", "devices": [], "retryInSeconds": 9, "failure": failure}

    assert "tiny-scenes failed to load. ValueError: odd weights It is tried again in 9 s." in run(
        "load", "tiny-scenes"
    ).stderr.replace("\n", " ")


def test_stop_pin_and_unpin_call_their_routes(server: type[ScriptedServer]) -> None:
    printed = [run(verb, "tiny-scenes").stdout for verb in ("stop", "pin", "unpin")]

    assert printed[0] == "tiny-scenes is unloaded after 1 running job.\n"
    assert [path for path, _ in server.posted] == [
        f"/api/models/tiny-scenes/{verb}" for verb in ("unload", "pin", "unpin")
    ]


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ({"pinned": True}, "pinned"),
        ({"idleUnloadAt": None, "running": 2}, "in use"),
        ({"idleUnloadAt": None, "running": 0}, "for ever"),
        ({"state": "failed", "retryInSeconds": 9}, "tried again in 9s"),
    ],
)
def test_ps_shows_how_long_a_model_stays(server: type[ScriptedServer], model: dict, shown: str) -> None:
    server.model = model
    assert shown in run("ps").stdout


def test_list_shows_the_models(server: type[ScriptedServer]) -> None:
    assert "tiny-scenes  image  resident  24.0 MiB  float32" in run("list").stdout


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (401, "uses another data directory", 4),
        (403, "No.", 4),
        (429, "No.", 5),
        (502, "answered 502: No.", 3),
        (500, "answered 500: No.", 1),
    ],
)
def test_an_error_reply_ends_a_command_with_its_message(
    server: type[ScriptedServer], status: int, message: str, code: int
) -> None:
    server.status = status
    result = run("list")

    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


@pytest.mark.slow
def test_without_a_server_a_command_tells_how_to_start_one(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    never_started = run("ps")
    data_dir.mkdir()
    write_local_key(data_dir)
    with socket.create_server(("127.0.0.1", 0)) as closing:
        monkeypatch.setenv("AGENTNAME_PORT", str(closing.getsockname()[1]))
    stopped = run("ps")

    for result in (never_started, stopped):
        assert result.exit_code == 3
        assert "Start one: agentname serve" in result.stderr
