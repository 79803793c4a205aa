"""Default folders, shared by the settings and the client. Reads nothing at import. Pure functions."""

from __future__ import annotations

import os
from pathlib import Path

LOCAL_KEY_FILE = "local-key"  # in the data directory: the running server's key for clients on the same machine


def data_home() -> Path:
    return _xdg("XDG_DATA_HOME", ".local/share")


def cache_home() -> Path:
    return _xdg("XDG_CACHE_HOME", ".cache")


def _xdg(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "agentname"
