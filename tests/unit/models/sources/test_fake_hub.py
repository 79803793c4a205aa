"""The fake hub answers huggingface_hub as the real one does: what holds for the library there, holds for us here."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.support.fake_hub import COMMIT, OTHER_TOKEN, TOKEN
from tests.support.hub_client import HubClient, hub_client
from tests.support.hub_contents import etag_of
from tests.support.hub_repositories import LARGE, WEIGHTS, large_qwen3, sdxl_base


def url_of(client: HubClient, name: str, repo: str = "owner/name", revision: str = "main") -> str:
    return str(hf_hub_url(repo, name, revision=revision, endpoint=client.hub.url))


@pytest.mark.slow
def test_the_library_lists_every_page_and_downloads_a_whole_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = sdxl_base()
    with hub_client(monkeypatch, tmp_path, {"owner/name": repo}) as client:
        client.hub.page_size = 10
        listed = {entry.path: entry for entry in HfApi(client.hub.url).list_repo_tree("owner/name", recursive=True)}
        assert {name for name, entry in listed.items() if hasattr(entry, "size")} == {*repo}
        assert listed["unet/config.json"].blob_id == etag_of("unet/config.json", repo["unet/config.json"])
        assert HfApi(client.hub.url).model_info("owner/name").sha == COMMIT
        top = HfApi(client.hub.url).list_repo_tree("owner/name", "unet", expand=True)
        assert {entry.path for entry in top} == {name for name in repo if name.startswith("unet/")}
        path = snapshot_download("owner/name", cache_dir=tmp_path / "theirs", endpoint=client.hub.url)

    assert {file.relative_to(path).as_posix() for file in Path(path).rglob("*") if file.is_file()} == {*repo}


def test_the_library_reads_what_names_a_large_file_and_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        large = get_hf_file_metadata(url_of(client, WEIGHTS), token=TOKEN)
        small = get_hf_file_metadata(url_of(client, "config.json"), token=TOKEN)
        client.hub.xet = True
        offered = get_hf_file_metadata(url_of(client, WEIGHTS))

    assert (large.commit_hash, large.etag, large.size) == (COMMIT, etag_of(WEIGHTS, LARGE), len(LARGE))
    assert large.location.startswith(client.hub.cdn_url)
    assert small.etag == etag_of("config.json", large_qwen3()["config.json"])
    assert small.location.startswith(client.hub.url)
    assert large.xet_file_data is None
    assert offered.xet_file_data is not None


def test_the_library_downloads_with_its_token_and_keeps_it_from_the_other_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/gated": large_qwen3()}, gated={"owner/gated"}) as client:
        options = {"cache_dir": str(tmp_path / "theirs"), "token": TOKEN, "endpoint": client.hub.url}
        path = hf_hub_download("owner/gated", WEIGHTS, **options)  # type: ignore[arg-type]  # by keyword

    assert Path(path).read_bytes() == LARGE
    assert {authorization for _, _, authorization in client.hub.requests} <= {f"Bearer {TOKEN}"}
    assert [authorization for _, _, authorization in client.hub.cdn_requests] == [None]


@pytest.mark.parametrize(
    ("repo", "revision", "name", "token", "error"),
    [
        ("owner/gated", "main", WEIGHTS, False, GatedRepoError),
        ("owner/gated", "main", WEIGHTS, OTHER_TOKEN, GatedRepoError),
        ("owner/private", "main", WEIGHTS, False, RepositoryNotFoundError),
        ("owner/private", "main", WEIGHTS, OTHER_TOKEN, RepositoryNotFoundError),
        ("owner/nothing", "main", WEIGHTS, False, RepositoryNotFoundError),
        ("owner/gated", "v9", WEIGHTS, TOKEN, RevisionNotFoundError),
        ("owner/gated", "main", "missing.json", TOKEN, RemoteEntryNotFoundError),
    ],
)
def test_the_library_names_the_reason_of_a_refusal(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    repo: str,
    revision: str,
    name: str,
    token: str | bool,
    error: type[Exception],
) -> None:
    repos = {"owner/gated": large_qwen3(), "owner/private": large_qwen3()}
    hub = {"gated": {"owner/gated"}, "private": {"owner/private"}}
    with hub_client(monkeypatch, tmp_path, repos, **hub) as client, pytest.raises(error):
        get_hf_file_metadata(url_of(client, name, repo, revision), token=token)


def test_a_range_beyond_the_end_of_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import get_session

    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        url = url_of(client, WEIGHTS)
        inner = get_session().get(url, headers={"Range": "bytes=10-19"})
        beyond = get_session().get(url, headers={"Range": f"bytes={len(LARGE)}-"})

    assert (inner.status_code, inner.content) == (206, LARGE[10:20])
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{len(LARGE)}")
