"""`doctor`: checks everything a server needs and prints how to fix what is wrong.

The checks are in `doctor_checks.py`, because a command's own file must import nothing heavy: all commands load it.
"""

from __future__ import annotations

import typer

from server.cli.connection import DataDir, Port, settings
from server.cli.output import print_table

app = typer.Typer()


@app.command()
def doctor(port: Port = None, data_dir: DataDir = None) -> None:
    """Check everything the server needs, and print how to fix what is wrong."""
    from server.cli.doctor_checks import examine

    findings = examine(settings(port=port, data_dir=data_dir))
    marks = {True: "ok", False: "FAILED", None: "note"}
    print_table(
        ["check", "", "found", "fix"], [[f.check, marks[f.ok], f.found, "" if f.ok else f.fix] for f in findings]
    )
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)
