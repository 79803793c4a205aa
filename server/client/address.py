"""Which server, and with which key: what the caller says, then the environment, then what the server of this machine left."""

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
EVERY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # not bound: replaced
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Address:
    base_url: str
    key: str = field(repr=False)
    local: bool  # on this machine: no proxy of the environment is asked

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


def find(base_url: str | None, api_key: str | None, data_dir: Path | None = None) -> Address:
    """The key that a server leaves in its data directory is admin of this machine: unless `data_dir` says whose it is, it is
    sent to this machine only. Raises `NoKey`.
    """
    text = (base_url or os.environ.get(URL) or DEFAULT_URL).rstrip("/").removesuffix("/api")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise AgentNameError(f"Not an address of a server: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise AgentNameError(f"Not an address of a server: {text}. It looks like {DEFAULT_URL}")
    local = url.host in LOOPBACK
    key = api_key or os.environ.get(API_KEY) or (_local_key(data_dir) if local or data_dir else None)
    if key is None:
        raise NoKey(f"A key is needed: set {API_KEY}, or make one: agentname keys create --plan free --name NAME")
    return Address(text, key.strip(), local)


def url_of(host: str, port: int) -> str:
    """Of a server of this machine that listens on `host`, which may be every address."""
    host = EVERY.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _local_key(data_dir: Path | None) -> str:
    folder = data_dir or Path(os.environ.get(DATA_DIR) or data_home()).expanduser()
    try:
        return (folder / LOCAL_KEY_FILE).read_text().strip()
    except OSError:
        raise NoKey(
            f"No server has run with the data directory {folder}. Start one: agentname serve. "
            f"Or set {API_KEY} to a key of the server that runs."
        ) from None
