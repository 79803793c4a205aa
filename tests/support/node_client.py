"""OpenAI's Node client, run beside a test. It is found in $OPENAI_NODE_MODULES (npm install openai)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "openai_client.mjs"


def node_client(folder: Path, base_url: str, key: str, *models: str) -> list[str]:
    """The command, to be run in `folder`; `models`: one that talks, one that paints, one that films. Skips where there is no client."""
    modules = os.environ.get("OPENAI_NODE_MODULES")
    if shutil.which("node") is None or not modules:
        pytest.skip("needs node, and OPENAI_NODE_MODULES=DIR/node_modules where npm has put openai")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "client.mjs").write_text(PROGRAM.read_text())
    (folder / "node_modules").symlink_to(modules)
    return ["node", "client.mjs", base_url, key, *models]
