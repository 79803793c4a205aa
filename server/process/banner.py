"""Prints the server's address, devices, models, first API key, and a request to paste. Main thread."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from models.spec import ModelSpec
from server.process.hardware import Machine
from server.units import size


def print_banner(
    sock: socket.socket, machines: Sequence[Machine], specs: Sequence[ModelSpec], first_key: str | None
) -> None:
    """first_key: an API key that was just made; None at later starts, because the store keeps only its SHA-256."""
    url = _url(sock)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"\n[bold]AgentName[/bold] is at [bold cyan]{url}[/bold cyan]")
    for machine in machines:
        console.print(f"  device  {escape(machine.name)}, {size(machine.memory_bytes)} for models")
    for spec in specs:
        default = " (default)" if spec.default else ""
        held = size(spec.weight_bytes) if spec.path else "not downloaded yet"
        console.print(f"  {spec.type:<6}  {escape(spec.name)}{default}, {held}")
    if first_key is None:
        console.print("\nTry it with one of your keys (a new one: agentname keys create --plan free --name NAME):\n")
    else:
        console.print(f"\nYour API key, shown only now:  [bold]{first_key}[/bold]\n\nTry it:\n")
    console.print(_curl(url, first_key or "YOUR_API_KEY"), markup=False)
    console.print()


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::", "127.0.0.1", "::1"):  # noqa: S104  # compared, not bound
        host = "localhost"
    return f"http://{host}:{port}"


def _curl(url: str, key: str) -> str:
    return (
        f"curl {url}/api/generate -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' "
        """-d '{"prompt":"A futuristic city at night","type":"image","aspect_ratio":"16:9"}'"""
    )
