"""The command line as its user meets it: what is on stdout, what is said when something is missing, how it exits."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner, Result

from server.accounts.auth import write_local_key
from server.cli import app
from server.cli.doctor_checks import Finding, examine
from server.process.settings import load_settings
from server.process.supervisor import UNUSABLE
from server.store import keys
from server.store.database import Database
from server.units import size
from tests.support.paths import ROOT

KEY = re.compile(r"an_[0-9A-Za-z]{22}_[0-9A-Za-z]{6}")


@pytest.fixture(autouse=True)
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in list(os.environ):
        if name.upper().startswith("AGENTNAME_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AGENTNAME_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("AGENTNAME_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "data"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def open_store(data_dir: Path) -> Database:
    database = Database(f"sqlite:///{data_dir / 'agentname.db'}")
    database.start()
    return database


def test_a_new_key_is_alone_on_stdout_and_works(data_dir: Path) -> None:
    made = run("keys", "create", "--plan", "pro", "--admin", "--name", "anna")

    assert made.exit_code == 0
    assert KEY.fullmatch(made.stdout.removesuffix("\n"))
    assert not KEY.search(made.stderr)
    database = open_store(data_dir)
    row = database.read_now(lambda conn: keys.by_digest(conn, keys.digest_of(made.stdout.strip())))
    database.close()
    assert row is not None
    assert (row.name, row.plan, row.scopes) == ("anna", "pro", {"use", "admin"})


def test_a_key_is_for_use_only_unless_asked_otherwise(data_dir: Path) -> None:
    run("keys", "create", "--plan", "free", "--name", "anna")

    assert "free  use " in run("keys", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--plan", "pto", "--name", "anna"],
            "There is no plan 'pto'. Did you mean 'pro'? The plans are: free, pro, enterprise.",
        ),
        (["--plan", "gold", "--name", "anna"], "There is no plan 'gold'. The plans are: free, pro, enterprise."),
        (["--plan", "free", "--name", ""], "A name has 1 to 100 printable characters."),
        (["--plan", "free", "--name", "x" * 101], "A name has 1 to 100 printable characters."),
        (["--plan", "free", "--name", "a\x1b[2J"], "A name has 1 to 100 printable characters."),
    ],
)
def test_what_is_wrong_with_a_new_key_is_said(arguments: list[str], said: str) -> None:
    made = run("keys", "create", *arguments)

    assert (made.exit_code, made.stdout, made.stderr.strip()) == (1, "", said)


def test_two_live_keys_cannot_share_a_name() -> None:
    run("keys", "create", "--plan", "free", "--name", "anna")
    again = run("keys", "create", "--plan", "free", "--name", "anna")

    assert (again.exit_code, again.stdout) == (1, "")
    assert "'anna' exists" in again.stderr


def test_keys_are_listed_without_themselves_and_revoked_by_how_they_begin() -> None:
    key = run("keys", "create", "--plan", "free", "--name", "[red]anna").stdout.strip()
    listed = run("keys", "list").stdout

    assert "[red]anna" in listed
    assert key[:9] in listed
    assert key not in listed
    assert run("keys", "revoke", key[:9]).exit_code == 0
    assert re.search(r"use +\d{4}-\d\d-\d\d \d\d:\d\d +\d{4}-\d\d-\d\d", run("keys", "list").stdout)
    again = run("keys", "revoke", key[:9])
    assert (again.exit_code, again.stderr.strip()) == (
        1,
        "No live key has that id, name or prefix. See: agentname keys list",
    )


def test_a_wrong_setting_is_said_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTNAME_PROT", "1")
    for command in (["serve"], ["ps"], ["keys", "list"], ["doctor"], ["worker", "--fd", "0"]):
        ended = run(*command)
        assert (ended.exit_code, ended.stdout) == (UNUSABLE, "")
        assert ended.stderr.strip() == "AGENTNAME_PROT is not a setting. Did you mean 'AGENTNAME_PORT'?"


def test_a_damaged_store_is_said_in_one_line(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "agentname.db").write_bytes(b"no database" * 999)
    ended = run("keys", "list")

    assert ended.exit_code == 1
    assert "file is not a database" in ended.stderr
    assert "Traceback" not in ended.output


def test_serving_on_a_port_in_use_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("serve", "--port", str(port))

    assert ended.exit_code == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in ended.stderr


class Replies(http.server.BaseHTTPRequestHandler):
    """A server that has one model in memory and one job running."""

    status = 200
    authorization = ""
    model: ClassVar[dict[str, object]] = {}  # what is different about it
    posted: ClassVar[list[tuple[str, object]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.posted.append((self.path, json.loads(body) if body else None))
        self._answer(json.dumps({"name": "tiny-scenes", "running": 1}).encode())

    def do_GET(self) -> None:
        type(self).authorization = self.headers["Authorization"]
        gib = 2**30
        model = {"name": "tiny-scenes", "type": "image", "state": "resident", "bytes": 24 * 2**20, "dtype": "float32",
                 "devices": ["CPU"], "running": 1, "waiting": 2, "idleUnloadAt": "2999-01-01T00:00:00.000Z"} | self.model  # fmt: skip
        holder = {"name": "tiny-scenes", "kind": "weights", "bytes": 24 * 2**20}
        device = {"name": "CPU", "others": 0, "total": 8 * gib, "used": 2 * gib, "free": 6 * gib, "holders": [holder]}
        nothing = dict.fromkeys(["startedAt", "finishedAt", "expiresAt", "queue", "etaSeconds", "error", "metrics"])
        job = nothing | {
            "jobId": "job_1_abc", "type": "image", "model": "tiny-scenes", "status": "processing", "progress": 0.456,
            "createdAt": "2026-11-24T09:00:00.000Z", "stage": "denoising", "step": 5, "totalSteps": 12, "attempt": 1,
            "params": {}, "warnings": [], "outputs": [],
        }  # fmt: skip
        replies = {
            "/api/gpu": {"devices": [device]},
            "/api/models": {"models": [model]},
            "/api/jobs?status=processing": {"jobs": [job], "nextCursor": None},
            "/api/jobs?status=queued": {"jobs": [], "nextCursor": None},
        }
        body = json.dumps(replies[self.path] if self.status == 200 else {"error": "No.", "code": self.status}).encode()
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        self.send_response(self.status)
        if self.status in (429, 502):
            self.send_header("Retry-After", "3600")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def running_server(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Iterator[type[Replies]]:
    handler = type("Handler", (Replies,), {"model": {}, "posted": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    data_dir.mkdir()
    write_local_key(data_dir)
    monkeypatch.setenv("AGENTNAME_PORT", str(server.server_port))
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_ps_shows_what_is_in_memory_and_what_runs(running_server: type[Replies], data_dir: Path) -> None:
    shown = run("ps")

    assert shown.exit_code == 0
    assert "tiny-scenes  image  24.0 MiB  resident  CPU" in shown.stdout
    assert re.search(r"\d+h \d+m +1\+2", shown.stdout)
    assert "CPU: 2.0 GiB of 8.0 GiB used, 6.0 GiB free" in shown.stdout
    assert "job_1_abc  image  tiny-scenes  processing  46%" in shown.stdout
    assert running_server.authorization == f"Bearer {(data_dir / 'local-key').read_text().strip()}"


def test_load_waits_until_the_model_is_there_and_says_where(running_server: type[Replies]) -> None:
    ended = run("load", "tiny-scenes", "--keep-alive", "10m")

    assert ended.stdout == "tiny-scenes is in memory: 24.0 MiB on CPU.\n"
    assert running_server.posted == [("/api/models/tiny-scenes/load", {"keepAlive": "10m"})]


def test_load_of_a_model_that_fails_says_when_it_is_tried_again(running_server: type[Replies]) -> None:
    running_server.model = {"state": "failed", "devices": [], "retryInSeconds": 9}
    ended = run("load", "tiny-scenes")

    assert ended.exit_code == 1
    assert "tried again in 9 s" in ended.stderr


def test_stop_pin_and_unpin_ask_the_server(running_server: type[Replies]) -> None:
    said = [run(verb, "tiny-scenes").stdout for verb in ("stop", "pin", "unpin")]

    assert said[0] == "tiny-scenes goes after 1 running job.\n"
    assert [path for path, _ in running_server.posted] == [
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
def test_ps_says_until_when_a_model_stays(running_server: type[Replies], model: dict, shown: str) -> None:
    running_server.model = model
    assert shown in run("ps").stdout


def test_list_shows_the_models(running_server: type[Replies]) -> None:
    assert "tiny-scenes  image  resident  24.0 MiB  float32" in run("list").stdout


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (401, "uses another data directory", 4),
        (403, "No.", 4),
        (429, "No.", 5),
        (502, "answered 502: No.", 3),
        (500, "answered 500: No.", 1),
    ],
)
def test_a_server_that_refuses_is_said_so(running_server: type[Replies], status: int, said: str, code: int) -> None:
    running_server.status = status
    ended = run("list")

    assert (ended.exit_code, ended.stdout) == (code, "")
    assert said in ended.stderr


def test_without_a_server_the_way_to_start_one_is_said(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    never = run("ps")
    data_dir.mkdir()
    write_local_key(data_dir)
    with socket.create_server(("127.0.0.1", 0)) as closing:
        monkeypatch.setenv("AGENTNAME_PORT", str(closing.getsockname()[1]))
    gone = run("ps")

    for ended in (never, gone):
        assert ended.exit_code == 3
        assert "Start one: agentname serve" in ended.stderr


def test_the_command_line_starts_without_frameworks() -> None:
    code = "import sys, server.cli, server.process.settings; print([m for m in ('torch', 'sqlalchemy', 'fastapi', 'numpy') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 * 2**29, "1.5 GiB"), (2**60, "1048576.0 TiB")],
)
def test_sizes_are_shown_for_people(n_bytes: int, shown: str) -> None:
    assert size(n_bytes) == shown


def findings(monkeypatch: pytest.MonkeyPatch, **overrides: object) -> dict[str, Finding]:
    """Without the check of torch, which takes seconds: no interpreter of that name can be started."""
    return {finding.check: finding for finding in examine(load_settings(**overrides), python="/bin/true")}


def test_doctor_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "agentname.db").write_bytes(b"no database" * 999)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = findings(monkeypatch, port=taken.getsockname()[1], cache_dir="/proc/nowhere")

    assert [check for check, finding in found.items() if finding.ok is False] == [
        "torch",
        "ffmpeg",
        "cache directory",
        "job store",
        "port",
    ]
    assert all(finding.fix for finding in found.values() if finding.ok is False)
    assert found["data directory"].ok


def test_doctor_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = findings(monkeypatch, port=0)

    assert list(tmp_path.iterdir()) == []
    assert found["job store"].ok
    assert found["port"].ok


def test_doctor_sees_that_the_port_is_taken_by_a_server_of_ours(
    monkeypatch: pytest.MonkeyPatch, running_server: type[Replies]
) -> None:
    port = findings(monkeypatch)["port"]

    assert port.ok is None
    assert "a server of this data directory runs" in port.found


@pytest.mark.slow
def test_doctor_exits_with_1_when_something_has_to_be_mended(data_dir: Path) -> None:
    well = run("doctor", "--port", "0")
    assert (well.exit_code, "FAILED" in well.stdout) == (0, False)
    data_dir.mkdir()
    (data_dir / "agentname.db").write_bytes(b"no database" * 999)
    ill = run("doctor", "--port", "0")
    assert (ill.exit_code, "FAILED" in ill.stdout) == (1, True)
