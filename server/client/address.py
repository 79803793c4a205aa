"""Finds the server's URL and the key: from the arguments, then the environment, then the local server's data directory.

Any thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from server.client.errors import AgentNameError, NoKey
from server.paths import LOCAL_KEY_FILE, data_home

URL = "AGENTNAME_URL"
API_KEY = "AGENTNAME_API_KEY"
DATA_DIR = "AGENTNAME_DATA_DIR"
DEFAULT_URL = "http://localhost:3001"
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # only replaced, never bound
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Address:
    base_url: str
    key: str = field(repr=False)
    local: bool  # on this machine: the environment's proxy settings are not used

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


def find(base_url: str | None, api_key: str | None, data_dir: Path | None = None) -> Address:
    """Returns the server's address and the key to use. Raises `AgentNameError` for an invalid URL, `NoKey` without a
    key.

    The key in a server's data directory has admin rights. Without an explicit `data_dir`, that key is sent to a server
    on this machine only.
    """
    text = (base_url or os.environ.get(URL) or DEFAULT_URL).rstrip("/").removesuffix("/api")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise AgentNameError(f"Not a server's URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise AgentNameError(f"Not a server's URL: {text}. An example is {DEFAULT_URL}")
    local = url.host in LOOPBACK
    key = api_key or os.environ.get(API_KEY) or (_local_key(data_dir) if local or data_dir else None)
    if key is None:
        raise NoKey(f"A key is needed: set {API_KEY}, or create one: agentname keys create --plan free --name NAME")
    return Address(text, key.strip(), local)


def url_of(host: str, port: int) -> str:
    """Returns the URL of a server on this machine that listens on `host`, which may be a wildcard address."""
    host = WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _local_key(data_dir: Path | None) -> str:
    folder = data_dir or Path(os.environ.get(DATA_DIR) or data_home()).expanduser()
    try:
        return (folder / LOCAL_KEY_FILE).read_text().strip()
    except OSError:
        raise NoKey(
            f"No server has run with the data directory {folder}. Start one: agentname serve. "
            f"Or set {API_KEY} to a key of the running server."
        ) from None
