"""The environment wins over TOML over defaults; unknown names are errors; every setting is documented."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from server.accounts.quotas import DEFAULT_PLANS
from server.process.settings import Settings, SettingsError, load_settings
from tests.support.paths import ROOT

DOCS = ROOT / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the settings of the person who runs the tests, and use a home without a config file."""
    import os

    for name in list(os.environ):
        if name.upper().startswith("AGENTNAME_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "data" / "agentname" / "agentname.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_the_defaults_suit_a_new_user(tmp_path: Path) -> None:
    settings = load_settings()

    assert (settings.host, settings.port, settings.device) == ("127.0.0.1", 3001, "auto")
    assert settings.data_dir == tmp_path / "data" / "agentname"
    assert settings.cache_dir == tmp_path / "cache" / "agentname"
    assert settings.store_url == f"sqlite:///{tmp_path}/data/agentname/agentname.db"
    assert settings.keep_alive == 300
    assert settings.plans == DEFAULT_PLANS
    assert settings.memory_budget is None


def test_options_win_over_the_environment_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, 'port = 1\nhost = "::1"\ndevice = "cpu"')
    monkeypatch.setenv("AGENTNAME_PORT", "2")
    monkeypatch.setenv("AGENTNAME_DEVICE", "cuda:1")
    settings = load_settings(port=3, device=None)

    assert (settings.port, settings.device, settings.host) == (3, "cuda:1", "::1")


def test_the_file_is_read_from_the_data_directory_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agentname.toml").write_text("port = 7")

    assert load_settings(data_dir=tmp_path).port == 7
    monkeypatch.setenv("AGENTNAME_DATA_DIR", str(tmp_path))
    assert load_settings().port == 7


def test_a_file_that_the_environment_names_is_used_instead_and_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "other.toml"
    monkeypatch.setenv("AGENTNAME_CONFIG", str(path))
    with pytest.raises(SettingsError, match=r"other\.toml: no such file"):
        load_settings()

    path.write_text("port = 8")
    assert load_settings().port == 8


@pytest.mark.parametrize(
    ("written", "n_bytes"),
    [
        ("8GiB", 8 * 2**30),
        ("8G", 8 * 2**30),
        ("8g", 8 * 2**30),
        ("8589934592", 8 * 2**30),
        ("8 GB", 8 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("512MiB", 2**29),
        ("64kB", 64_000),
        ("0", 0),
    ],
)
def test_sizes_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch, written: str, n_bytes: int) -> None:
    monkeypatch.setenv("AGENTNAME_MEMORY_BUDGET", written)

    assert load_settings().memory_budget == n_bytes


@pytest.mark.parametrize(
    ("written", "seconds"), [("5m", 300), ("300", 300), ("0", 0), ("-1", math.inf), ("1.5h", 5400), ("250ms", 0.25)]
)
def test_times_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch, written: str, seconds: float) -> None:
    monkeypatch.setenv("AGENTNAME_KEEP_ALIVE", written)

    assert load_settings().keep_alive == seconds


def test_numbers_in_the_file_need_no_quotes(tmp_path: Path) -> None:
    write_config(tmp_path, "memory_budget = 1024\nkeep_alive = -1\nmodels_dirs = ['~/models', '/srv']")
    settings = load_settings()

    assert (settings.memory_budget, settings.keep_alive) == (1024, math.inf)
    assert settings.models_dirs == [Path.home() / "models", Path("/srv")]


@pytest.mark.parametrize("written", ["a.example, b.example", '["a.example", "b.example"]', "a.example,b.example,"])
def test_lists_in_the_environment_are_separated_by_commas_or_are_json(
    monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("AGENTNAME_ALLOWED_HOSTS", written)

    assert load_settings().allowed_hosts == ["a.example", "b.example"]


def test_an_unknown_name_in_the_environment_is_an_error_that_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTNAME_MEMORY_BUGET", "8GiB")
    monkeypatch.setenv("AGENTNAME_PROT", "3001")
    with pytest.raises(SettingsError) as raised:
        load_settings()

    assert str(raised.value).splitlines() == [
        "AGENTNAME_MEMORY_BUGET is not a setting. Did you mean 'AGENTNAME_MEMORY_BUDGET'?",
        "AGENTNAME_PROT is not a setting. Did you mean 'AGENTNAME_PORT'?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 3001", "prot is not a setting. Did you mean 'port'?"),
        ("[plans.free]\nimagse = 3", "plans: plans.free.imagse is not known. Did you mean 'images'?"),
        ("[plans]\nfree = 3", "plans: plans.free is a table: [plans.free]"),
        ("port = 'x'", "port: Input should be a valid integer, unable to parse string as an integer"),
        ("port = 70000", "port: Input should be less than or equal to 65535"),
        ("memory_budget = 'much'", "memory_budget: a size is written like 8GiB, 512MiB or a number of bytes"),
        ("keep_alive = 'soon'", "keep_alive: a time is written like 30s, 5m, 2h, a number of seconds, or -1 for ever"),
        ("log_level = 'loud'", "log_level: Input should be 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_each_fault_of_the_file_is_reported_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    write_config(tmp_path, text)
    with pytest.raises(SettingsError) as raised:
        load_settings()

    assert str(raised.value) == message


def test_a_file_that_is_not_toml_is_refused_with_that_reason(tmp_path: Path) -> None:
    write_config(tmp_path, "port: 3001")
    with pytest.raises(SettingsError, match="not TOML"):
        load_settings()


def test_a_plan_keeps_the_values_that_the_file_does_not_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, "[plans.free]\nimages = 20\nchats = 'unlimited'\n[plans.team]\nvideos = 5")
    monkeypatch.setenv("AGENTNAME_PLANS__PRO__VIDEOS", "60")
    plans = load_settings().plans

    assert (plans["free"].images, plans["free"].videos, plans["free"].chats) == (20, 2, None)
    assert (plans["pro"].images, plans["pro"].videos) == (200, 60)
    assert (plans["team"].images, plans["team"].videos) == (10, 5)
    assert plans["enterprise"] == DEFAULT_PLANS["enterprise"]


def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTNAME_DATABASE_URL", "postgresql://me:hunter2@db/agentname")
    settings = load_settings()

    assert "hunter2" not in repr(settings)
    assert settings.store_url == "postgresql://me:hunter2@db/agentname"


def test_every_setting_is_documented() -> None:
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    documented = [line.split("`")[1] for line in rows]

    assert sorted(documented) == sorted(Settings.model_fields)


def test_every_field_of_a_plan_is_documented() -> None:
    text = DOCS.read_text()

    for field in ("images", "videos", "chats", "priority", "burst_per_minute", "max_queued", "file_space"):
        assert f"`{field}" in text, field
