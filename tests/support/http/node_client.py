"""Runs OpenAI's Node client, which must be installed in $OPENAI_NODE_MODULES (npm install openai)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "openai_client.mjs"


def node_client(folder: Path, base_url: str, key: str, *models: str) -> list[str]:
    """Returns the command to run in `folder`. `models`: one for chat, one for images, one for videos.

    Skips the test when Node or the client is not installed.
    """
    modules = os.environ.get("OPENAI_NODE_MODULES")
    if shutil.which("node") is None or not modules:
        pytest.skip("needs node, and OPENAI_NODE_MODULES=DIR/node_modules that contains the npm package openai")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "client.mjs").write_text(PROGRAM.read_text())
    (folder / "node_modules").symlink_to(modules)
    return ["node", "client.mjs", base_url, key, *models]
