"""Runs commands of the command line inside the test process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from tests.support.http.served import Served


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin, env={"COLUMNS": "200"})


def clear_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the settings of the machine that runs the tests."""
    for name in list(os.environ):
        if name.upper().startswith("AGENTNAME_"):
            monkeypatch.delenv(name)


def use_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Uses folders in `folder` for data and cache; returns the data directory, which does not exist yet."""
    clear_settings(monkeypatch)
    monkeypatch.setenv("AGENTNAME_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("AGENTNAME_CACHE_DIR", str(folder / "cache"))
    return folder / "data"


def use_server(monkeypatch: pytest.MonkeyPatch, server: Served, key: str = "enterprise") -> None:
    """Makes commands talk to `server`."""
    clear_settings(monkeypatch)
    monkeypatch.setenv("AGENTNAME_URL", server.url)
    monkeypatch.setenv("AGENTNAME_API_KEY", server.f.keys[key])
