"""Runs programs with real client libraries, which `make clients` installs apart from the server's environment.

The programs of tests/clients get the server's address and a key as their first two arguments and print one line of
JSON. A test whose clients, or Node, are not installed is skipped.
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
TIMEOUT_S = 240.0  # generous: a program with five libraries takes 10 s on a free core, and other tests run beside it
# curl reports a refused request by its exit status only on demand.
SHELL_HEAD = 'curl() { command curl --silent --show-error --fail-with-body "$@"; }; '


async def run_program(program: str, address: str, key: str, *arguments: str) -> Any:
    """Returns what a program of tests/clients printed last, parsed. Fails with its own output when it fails."""
    language = "python" if program.endswith(".py") else "js"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True)
        command = _command(language, Path(folder) / program)
        output = await _run([*command, address, key, *arguments], Path(folder))
    return json.loads(output.strip().splitlines()[-1])


async def run_source(source: str, language: str) -> str:
    """Returns what a program in python, js or sh printed. Fails with its own output when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / {"python": "example.py", "js": "example.mjs", "sh": "example.sh"}[language]
        path.write_text(SHELL_HEAD + source if language == "sh" else source)
        return await _run(_command(language, path), Path(folder))


def _command(language: str, path: Path) -> Sequence[str]:
    if language == "sh":
        return ["bash", "-euo", "pipefail", str(path)]
    if language == "python":
        if not PYTHON.exists():
            pytest.skip("the clients are not installed: make clients")
        return [str(PYTHON), str(path)]
    if shutil.which("node") is None or not NODE_MODULES.is_dir():
        pytest.skip("Node or its clients are not installed: make clients")
    (path.parent / "node_modules").symlink_to(NODE_MODULES)
    return ["node", str(path)]


async def _run(command: Sequence[str], folder: Path) -> str:
    # Nothing of this environment but what a process needs: no key, no proxy and no settings of a library.
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    env |= {"PYTHONUTF8": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # a price list that it would download
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (errors + b"\n" + output).decode("utf-8", "replace")[-4000:]
    return output.decode()
