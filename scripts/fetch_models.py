"""Fetch what the built-in models need into the cache that the server's settings name. Used by the Makefile."""

from __future__ import annotations

import sys

from models.fetch import fetch_builtin
from server.process.settings import load_settings

if __name__ == "__main__":
    sys.exit(fetch_builtin(load_settings().cache_dir))
