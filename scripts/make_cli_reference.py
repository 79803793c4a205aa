"""Writes docs/cli.md from the command line itself: `python scripts/make_cli_reference.py`. A test makes it again and compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "cli.md"

HEAD = """\
# Command line

Made by `scripts/make_cli_reference.py` from the commands. Do not edit it: change the command, run the script.

Commands that ask a server take the one that `AGENTNAME_URL` names with the key in `AGENTNAME_API_KEY`, else the one of this machine
with the key it left in its data directory. How commands exit is in [the client's page](client.md#exit-codes).
"""


def reference() -> str:
    import typer

    from server.cli import app

    lines = [HEAD]
    for path, command in _commands(typer.main.get_command(app), ("agentname",)):
        lines += [f"## {' '.join(path)}", "", *_described(path, command)]
    return "\n".join(lines).rstrip() + "\n"


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        if not inner.hidden:
            yield from _commands(inner, (*path, name))


def _described(path: tuple[str, ...], command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    words = [p.name.upper() if p.required else f"[{p.name.upper()}]" for p in arguments]
    yield from [f"`{' '.join([*path, *words, *(['[OPTIONS]'] if options else [])])}`", ""]
    yield from [" ".join((command.help or "").split()), ""]
    if command.params:
        yield from ["| | | |", "|---|---|---|"]
    for p in arguments:
        yield f"| `{p.name.upper()}` | | {_help(p)} |"
    for p in options:
        names = ", ".join(f"`{name}`" for name in (*p.opts, *p.secondary_opts))
        yield f"| {names} | {'' if p.is_flag else _kind(p)} | {_help(p)}{' Required.' if p.required else ''} |"
    yield ""


def _kind(parameter: Any) -> str:
    name = parameter.type_descriptor.annotation.__name__
    return {"str": "text", "int": "number", "float": "number"}.get(name, name.lower())


def _help(parameter: Any) -> str:
    return str(parameter.help or "").replace("|", "\\|")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PATH.write_text(reference())
    print(f"{PATH.relative_to(ROOT)}: {len(PATH.read_text().splitlines())} lines")
