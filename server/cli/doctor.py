"""`doctor`: what would keep the server from working, and how to mend it."""

from __future__ import annotations

import typer

from server.cli.common import DataDir, Port, print_table, settings

app = typer.Typer()


@app.command()
def doctor(port: Port = None, data_dir: DataDir = None) -> None:
    """Look for what would keep the server from working, and say how to mend it."""
    from server.cli.doctor_checks import examine

    findings = examine(settings(port=port, data_dir=data_dir))
    marks = {True: "ok", False: "FAILED", None: "note"}
    print_table(
        ["check", "", "found", "to mend it"], [[f.check, marks[f.ok], f.found, "" if f.ok else f.fix] for f in findings]
    )
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)
