"""What the server prints for a new user when it listens."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from server.process.banner import print_banner
from server.process.hardware import Machine
from tests.fakes import spec


def banner(capsys: pytest.CaptureFixture[str], first_key: str | None) -> str:
    specs = [spec("talker", "chat", default=True), replace(spec("painter", "image"), path=Path("painter"))]
    with socket.create_server(("127.0.0.1", 0)) as sock:
        print_banner(sock, [Machine("cpu", "cpu", 2**31)], specs, first_key)
        port = sock.getsockname()[1]
    printed = capsys.readouterr().out
    assert f"http://localhost:{port}/api/generate" in printed
    return printed


def test_the_banner_names_the_device_the_size_of_each_model_and_models_that_are_not_downloaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = banner(capsys, first_key=None)

    assert "cpu, 2.0 GiB for models" in printed
    assert "painter, 1.0 GiB" in printed
    assert "talker (default), not downloaded yet" in printed


def test_the_request_to_paste_has_the_first_key_and_at_later_starts_a_placeholder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "Bearer an_first" in banner(capsys, first_key="an_first")
    assert "Bearer YOUR_API_KEY" in banner(capsys, first_key=None)
