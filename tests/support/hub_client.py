"""Lets this process pull from a fake hub into a cache of its own, without waiting between attempts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.sources.fetched import Fetched
from models.sources.hub import fetch_from_hub
from models.sources.hub_id import hub_id
from tests.support.fake_hub import COMMIT, Hub, fake_hub


class HubClient:
    """A user of the fake hub: `pull` downloads into `cache`, and keeps what was reported."""

    def __init__(self, hub: Hub, cache: Path) -> None:
        self.hub = hub
        self.cache = cache
        self.pauses: list[float] = []
        self.progress: list[tuple[str, int, int]] = []
        self.sizes: list[tuple[int, int]] = []

    def pull(self, source: str, **options: Any) -> Fetched:
        wanted = hub_id(source)
        assert wanted is not None, source
        return fetch_from_hub(
            wanted,
            lambda *progress: self.progress.append(progress),
            announce=lambda *sizes: self.sizes.append(sizes),
            **{"pause": self.pauses.append} | options,
        )

    def lay_down(self, repo: str, files: dict[str, bytes], commit: str = COMMIT) -> Path:
        """Writes a snapshot as a copying program does, files without blobs, and returns its folder."""
        folder = self.cache / f"models--{repo.replace('/', '--')}"
        for name, data in files.items():
            path = folder / "snapshots" / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs/main").write_text(commit)
        return folder / "snapshots" / commit


@contextmanager
def hub_client(
    monkeypatch: pytest.MonkeyPatch, folder: Path, repos: dict[str, dict[str, bytes]], **hub: Any
) -> Iterator[HubClient]:
    """Points huggingface_hub, in this process, at a fake hub with these repositories. `folder` gets the cache."""
    from huggingface_hub import constants

    with fake_hub(repos, **hub) as fake:
        use_cache(monkeypatch, folder / "hub")
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        template = fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))  # not the token of who runs the tests
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield HubClient(fake, folder / "hub")


def use_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))


def in_snapshot(fetched: Fetched) -> list[str]:
    """Returns the names of the files in a fetched folder."""
    return sorted(path.relative_to(fetched.path).as_posix() for path in fetched.path.rglob("*") if path.is_file())
