"""`keys`: creates, lists and revokes API keys directly in the store, whether or not a server runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from server.cli.connection import DataDir, database, settings
from server.cli.output import fail, print_table

app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")


@app.command("create")
def keys_create(
    plan: Annotated[str, typer.Option(help="free, pro, enterprise, or a plan of the config file.")],
    name: Annotated[str, typer.Option(help="Name of the key, unique among live keys.")],
    admin: Annotated[bool, typer.Option("--admin", help="The key can also manage models and keys.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Create a key and print it on stdout. It is shown only once, because the store keeps a hash."""
    from models.errors import nearest
    from server.store.keys import create_key

    plans = settings(data_dir=data_dir).plans
    if plan not in plans:
        fail(f"There is no plan '{plan}'.{nearest(plan, plans)} The plans are: {', '.join(plans)}.")
    if not 0 < len(name) <= 100 or not name.isprintable():
        fail("The name must have 1 to 100 printable characters.")
    scopes = {"use", "admin"} if admin else {"use"}
    with database(data_dir) as store:
        row, key = store.write_now(lambda conn: create_key(conn, name, plan, scopes, datetime.now(UTC)))
    typer.echo(f"{row.id}: plan {plan}, scopes {' '.join(sorted(scopes))}. The key is shown only now:", err=True)
    typer.echo(key)


@app.command("list")
def keys_list(data_dir: DataDir = None) -> None:
    """List all keys, also revoked ones, by the characters they begin with."""
    from server.store.keys import list_keys

    with database(data_dir) as store:
        rows = store.read_now(list_keys)
    print_table(
        ["id", "key", "name", "plan", "scopes", "created", "revoked"],
        [
            [
                row.id,
                f"{row.hint}…",
                row.name,
                row.plan,
                " ".join(sorted(row.scopes)),
                _day(row.created_at),
                _day(row.revoked_at),
            ]
            for row in rows
        ],
    )


@app.command("revoke")
def keys_revoke(
    key: Annotated[str, typer.Argument(help="Id, name or first characters of the key.")], data_dir: DataDir = None
) -> None:
    """Revoke a key. A running server refuses it within a second."""
    from server.store.keys import revoke_key

    with database(data_dir) as store:
        row = store.write_now(lambda conn: revoke_key(conn, key, datetime.now(UTC)))
    typer.echo(f"Revoked {row.id} ({row.name}).")


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
