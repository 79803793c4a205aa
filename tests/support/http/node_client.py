"""Runs programs that use OpenAI's Node client or Vercel's AI SDK, which must be installed in $OPENAI_NODE_MODULES.

npm install openai ai @ai-sdk/openai-compatible @ai-sdk/openai
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent


def node_client(
    folder: Path,
    base_url: str,
    key: str,
    *arguments: str,
    program: str = "openai_client.mjs",
    packages: Sequence[str] = ("openai",),
) -> list[str]:
    """Returns the command to run in `folder`. `arguments`: of openai_client.mjs, a model for each of chat, images and
    videos.

    Skips the test when Node or one of the packages is not installed.
    """
    modules = Path(os.environ.get("OPENAI_NODE_MODULES", "/nowhere"))
    if shutil.which("node") is None or not all((modules / package).is_dir() for package in packages):
        pytest.skip(f"needs node, and OPENAI_NODE_MODULES=DIR/node_modules that contains {', '.join(packages)}")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PROGRAMS / program, folder / "client.mjs")
    (folder / "node_modules").symlink_to(modules)
    return ["node", "client.mjs", base_url, key, *arguments]
