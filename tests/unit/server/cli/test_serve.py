"""`serve`, and what all commands have in common: wrong settings and light imports."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from server.process.supervisor import UNUSABLE
from tests.support.http.command_line import run, use_folder
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return use_folder(monkeypatch, tmp_path)


def test_an_unknown_setting_is_reported_and_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTNAME_PROT", "1")
    for command in (["serve"], ["ps"], ["keys", "list"], ["doctor"], ["worker", "--fd", "0"]):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (UNUSABLE, "")
        assert result.stderr.strip() == "AGENTNAME_PROT is not a setting. Did you mean 'AGENTNAME_PORT'?"


def test_a_port_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", str(port))

    assert result.exit_code == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in result.stderr


def test_the_command_line_imports_no_heavy_package() -> None:
    heavy = ("torch", "sqlalchemy", "fastapi", "numpy")
    code = f"import sys, server.cli, server.process.settings; print([m for m in {heavy} if m in sys.modules])"
    program = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert program.stdout.strip() == "[]"
