"""How the command line asks a running server on this machine, with the key that it left in the data directory."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

from server.settings import LOCAL_KEY_FILE

TIMEOUT_S = 10.0


class NoServer(Exception):
    """Nothing of ours answers; the message says what to do."""


def get(host: str, port: int, data_dir: Path, path: str) -> Any:
    """The reply of GET `path`, read from JSON. Raises `NoServer`."""
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # not bound: replaced
    try:
        key = (data_dir / LOCAL_KEY_FILE).read_text().strip()
    except OSError:
        raise NoServer(f"No server has run with the data directory {data_dir}. Start one: agentname serve") from None
    connection = http.client.HTTPConnection(wildcard.get(host, host), port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoServer(f"No server answers on {host}:{port} ({error}). Start one: agentname serve") from None
    finally:
        connection.close()
    return _reply(response.status, body, f"{host}:{port}")


def _reply(status: int, body: bytes, address: str) -> Any:
    try:
        reply = json.loads(body)
    except ValueError:
        raise NoServer(f"What answers on {address} is not this server.") from None
    if status == 401:
        raise NoServer(f"The server on {address} uses another data directory: give it with --data-dir.")
    if status != 200:
        raise NoServer(f"The server on {address} answered {status}: {reply.get('error', '')}")
    return reply


def size(n_bytes: int) -> str:
    """ "1.5 GiB" """
    power = max(0, min(4, (n_bytes.bit_length() - 1) // 10))
    return f"{n_bytes / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
