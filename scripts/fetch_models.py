"""Fetches the weights of built-in models that are not in the checkout into the cache of the server's settings.

python scripts/fetch_models.py        `make models`; about a minute the first time, then nothing to do
"""

from __future__ import annotations

import sys

from models.fetch_builtin import fetch_builtin
from server.process.settings import load_settings

if __name__ == "__main__":
    sys.exit(fetch_builtin(load_settings().cache_dir))
