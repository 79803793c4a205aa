"""`doctor`: its findings, its exit code, and that it changes nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from server.accounts.auth import write_local_key
from server.cli.doctor_checks import Finding, examine
from server.process.settings import load_settings
from tests.support.http.command_line import run, use_folder
from tests.support.http.scripted_server import scripted_server


@pytest.fixture(autouse=True)
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return use_folder(monkeypatch, tmp_path)


def findings(monkeypatch: pytest.MonkeyPatch, **overrides: object) -> dict[str, Finding]:
    """Runs the checks by name. The check of torch takes seconds, so that it gets a program that prints nothing."""
    return {finding.check: finding for finding in examine(load_settings(**overrides), python="/bin/true")}


def test_doctor_finds_every_problem(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
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


def test_doctor_recognizes_a_server_of_the_same_data_directory(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    data_dir.mkdir()
    write_local_key(data_dir)
    with scripted_server() as (_, number):
        monkeypatch.setenv("AGENTNAME_PORT", str(number))
        port = findings(monkeypatch)["port"]

    assert port.ok is None
    assert "a server of this data directory runs" in port.found


@pytest.mark.slow
def test_doctor_exits_with_1_when_a_check_fails(data_dir: Path) -> None:
    sound = run("doctor", "--port", "0")
    assert (sound.exit_code, "FAILED" in sound.stdout) == (0, False)
    data_dir.mkdir()
    (data_dir / "agentname.db").write_bytes(b"no database" * 999)
    damaged = run("doctor", "--port", "0")
    assert (damaged.exit_code, "FAILED" in damaged.stdout) == (1, True)
