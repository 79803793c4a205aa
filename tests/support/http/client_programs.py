"""Runs the programs of tests/clients with real client libraries, which `make clients` installs apart from the server's.

A program gets the server's address and a key as its first two arguments and prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = ROOT / "tests" / "clients"
CLIENTS = ROOT / ".venv-clients"
PYTHON = CLIENTS / "bin" / "python"
NODE_MODULES = CLIENTS / "node_modules"
TIMEOUT_S = 120.0


async def run_program(program: str, address: str, key: str, *arguments: str) -> Any:
    """Returns what the program printed, parsed. Skips the test where the clients, or Node, are not installed.

    Fails with the program's own output when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = _command(program, Path(folder))
        # Nothing of this environment but what a process needs: no key, no proxy and no settings of a library.
        env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        env |= {"PYTHONUTF8": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # a price list that it would download
        process = await asyncio.create_subprocess_exec(
            *command, address, key, *arguments,
            cwd=folder, env=env, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, errors.decode("utf-8", "replace")[-4000:]
    return json.loads(output.decode().strip().splitlines()[-1])


def _command(program: str, folder: Path) -> Sequence[str]:
    if program.endswith(".py"):
        if not PYTHON.exists():
            pytest.skip("the clients are not installed: make clients")
        return [str(PYTHON), str(PROGRAMS / program)]
    if shutil.which("node") is None or not NODE_MODULES.is_dir():
        pytest.skip("Node or its clients are not installed: make clients")
    shutil.copy(PROGRAMS / program, folder / program)
    (folder / "node_modules").symlink_to(NODE_MODULES)
    return ["node", str(folder / program)]
