"""`keys`: what the commands print, and how they fail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.store import keys
from tests.support.http.command_line import run, use_folder
from tests.support.stores import open_store

KEY = re.compile(r"an_[0-9A-Za-z]{22}_[0-9A-Za-z]{6}")


@pytest.fixture(autouse=True)
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return use_folder(monkeypatch, tmp_path)


def test_a_new_key_is_printed_alone_on_stdout_and_is_in_the_store(data_dir: Path) -> None:
    result = run("keys", "create", "--plan", "pro", "--admin", "--name", "anna")

    assert result.exit_code == 0
    assert KEY.fullmatch(result.stdout.removesuffix("\n"))
    assert not KEY.search(result.stderr)
    with open_store(data_dir, f"sqlite:///{data_dir / 'agentname.db'}") as database:
        row = database.read_now(lambda conn: keys.by_digest(conn, keys.digest_of(result.stdout.strip())))
    assert row is not None
    assert (row.name, row.plan, row.scopes) == ("anna", "pro", {"use", "admin"})


def test_a_key_has_no_admin_scope_by_default(data_dir: Path) -> None:
    run("keys", "create", "--plan", "free", "--name", "anna")

    assert "free  use " in run("keys", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--plan", "pto", "--name", "anna"],
            "There is no plan 'pto'. Did you mean 'pro'? The plans are: free, pro, enterprise.",
        ),
        (["--plan", "gold", "--name", "anna"], "There is no plan 'gold'. The plans are: free, pro, enterprise."),
        (["--plan", "free", "--name", ""], "The name must have 1 to 100 printable characters."),
        (["--plan", "free", "--name", "x" * 101], "The name must have 1 to 100 printable characters."),
        (["--plan", "free", "--name", "a\x1b[2J"], "The name must have 1 to 100 printable characters."),
    ],
)
def test_an_invalid_plan_or_name_is_explained(arguments: list[str], message: str) -> None:
    result = run("keys", "create", *arguments)

    assert (result.exit_code, result.stdout, result.stderr.strip()) == (1, "", message)


def test_two_live_keys_cannot_share_a_name() -> None:
    run("keys", "create", "--plan", "free", "--name", "anna")
    again = run("keys", "create", "--plan", "free", "--name", "anna")

    assert (again.exit_code, again.stdout) == (1, "")
    assert "'anna' exists" in again.stderr


def test_keys_are_listed_by_their_first_characters_and_revoked_by_them() -> None:
    key = run("keys", "create", "--plan", "free", "--name", "[red]anna").stdout.strip()
    listed = run("keys", "list").stdout

    assert "[red]anna" in listed
    assert key[:9] in listed
    assert key not in listed
    assert run("keys", "revoke", key[:9]).exit_code == 0
    assert re.search(r"use +\d{4}-\d\d-\d\d \d\d:\d\d +\d{4}-\d\d-\d\d", run("keys", "list").stdout)
    again = run("keys", "revoke", key[:9])
    assert (again.exit_code, again.stderr.strip()) == (
        1,
        "No live key has that id, name or prefix. See: agentname keys list",
    )


def test_a_damaged_store_is_reported_without_a_traceback(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "agentname.db").write_bytes(b"no database" * 999)
    result = run("keys", "list")

    assert result.exit_code == 1
    assert "file is not a database" in result.stderr
    assert "Traceback" not in result.output
