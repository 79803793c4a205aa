"""A download from the hub survives what the hub does, and says in one sentence why it ended. No network."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest

from models.errors import BadModel, FetchFailed
from models.sources.retries import MAX_TRIES
from tests.support.fake_hub import COMMIT, OTHER_TOKEN, TOKEN
from tests.support.hub_client import hub_client
from tests.support.hub_contents import etag_of
from tests.support.hub_repositories import LARGE, WEIGHTS, large_qwen3

MIB = 1 << 20

# What the hub does meanwhile


def test_an_interrupted_download_continues_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        client.hub.break_at = 1 << 20
        assert (client.pull("owner/name").path / WEIGHTS).read_bytes() == LARGE
        assert [part for _, part, _ in client.hub.cdn_requests] == [None, f"bytes={1 << 20}-"]


def test_a_download_that_was_killed_continues_in_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        blob = client.cache / "models--owner--name/blobs" / etag_of(WEIGHTS, LARGE)
        blob.parent.mkdir(parents=True)
        blob.with_name(f"{blob.name}.part").write_bytes(LARGE[:500_000])
        assert (client.pull("owner/name").path / WEIGHTS).read_bytes() == LARGE
        assert client.hub.cdn_requests == [(f"/{blob.name}", "bytes=500000-", None)]
        rest = sum(len(large_qwen3()[name]) for name in client.hub.resolved()[1:])  # config.json came before the sum
        assert client.sizes[0][0] == rest - 500_000


def test_a_partial_file_that_is_longer_than_the_file_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        blob = client.cache / "models--owner--name/blobs" / etag_of(WEIGHTS, LARGE)
        blob.parent.mkdir(parents=True)
        blob.with_name(f"{blob.name}.part").write_bytes(LARGE + b"more")
        assert (client.pull("owner/name").path / WEIGHTS).read_bytes() == LARGE


@pytest.mark.parametrize("wrong", [WEIGHTS, "config.json"])
def test_bytes_that_are_not_what_the_hub_listed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    repo = large_qwen3()
    with hub_client(monkeypatch, tmp_path, {"owner/name": repo}) as client:
        listed = client.hub.files("owner/name", COMMIT)
        blob = client.cache / "models--owner--name/blobs" / etag_of(wrong, listed[wrong])
        blob.parent.mkdir(parents=True)
        blob.with_name(f"{blob.name}.part").write_bytes(bytes(len(listed[wrong])))
        with pytest.raises(FetchFailed, match=rf"{wrong} has the wrong .* and was deleted"):
            client.pull("owner/name")
        assert client.pull("owner/name").path.is_dir()


@pytest.mark.parametrize("part", ["/revision/", "/tree/", "/resolve/", "/resolve-cache/"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again_after_the_time_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, status: int
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        client.hub.fail(part, status, times=MAX_TRIES - 1, Retry_After="7")
        assert (client.pull("owner/name").path / WEIGHTS).read_bytes() == LARGE
        assert client.pauses == [7.0] * (MAX_TRIES - 1)


def test_the_other_host_may_be_busy_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        client.hub.fail(etag_of(WEIGHTS, LARGE), 503, times=2)
        assert (client.pull("owner/name").path / WEIGHTS).read_bytes() == LARGE
        assert client.pauses == [1.0, 2.0]


@pytest.mark.parametrize(
    ("part", "status", "headers", "words"),
    [
        ("/revision/", 429, {}, "the hub limits the rate of requests (429); pull owner/name again later"),
        ("/revision/", 429, {"Retry_After": "3600"}, "pull owner/name again in 3600 s"),
        ("/revision/", 429, {"ratelimit": '"api";r=0;t=900'}, "pull owner/name again in 900 s"),
        ("/tree/", 502, {}, "the hub answers 502 for owner/name; pull again later"),
        (WEIGHTS, 429, {}, "model.safetensors: the server limits the rate of requests (429)"),
        (WEIGHTS, 504, {}, "model.safetensors: the server answers 504"),
        ("/tree/", 418, {}, "the hub answered 418 for owner/name"),
    ],
)
def test_a_hub_that_stays_busy_is_given_up_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, status: int, headers: dict[str, str], words: str
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        client.hub.fail(part, status, times=100, **headers)
        with pytest.raises(FetchFailed) as raised:
            client.pull("owner/name")

    assert words in raised.value.message
    assert len(client.pauses) < MAX_TRIES
    assert not any(pause > 120 for pause in client.pauses)


# Tokens


def test_the_token_opens_a_gated_repository_and_never_reaches_the_other_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repos = {"owner/gated": large_qwen3(), "owner/private": large_qwen3()}
    hub = {"gated": {"owner/gated"}, "private": {"owner/private"}}
    with hub_client(monkeypatch, tmp_path, repos, **hub) as client:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert client.pull("owner/gated").path.is_dir()
        assert client.pull("owner/private").path.is_dir()

    assert {authorization for _, _, authorization in client.hub.requests} == {f"Bearer {TOKEN}"}
    assert {authorization for _, _, authorization in client.hub.cdn_requests} == {None}


@pytest.mark.parametrize(
    ("source", "token", "words"),
    [
        ("owner/gated", None, "owner/gated is gated: accept its terms on the hub, then set HF_TOKEN"),
        ("owner/gated", OTHER_TOKEN, "is gated and the account of HF_TOKEN has no access"),
        ("owner/private", None, "is not on the hub, or is private: set HF_TOKEN"),
        ("owner/private", OTHER_TOKEN, "is not on the hub, or the account of HF_TOKEN has no access to it"),
        ("owner/nothing", None, "is not on the hub, or is private: set HF_TOKEN"),
        ("owner/open", "hf_expired", "the hub refused HF_TOKEN for owner/open"),
        ("owner/open@v9", None, "owner/open has no revision v9"),
        (f"owner/open@{'9' * 40}", None, f"owner/open has no revision {'9' * 40}"),
        ("owner/open:missing.gguf", None, "owner/open has no file missing.gguf"),
    ],
)
def test_the_error_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, token: str | None, words: str
) -> None:
    repos = {"owner/gated": large_qwen3(), "owner/private": large_qwen3(), "owner/open": large_qwen3()}
    hub = {"gated": {"owner/gated"}, "private": {"owner/private"}}
    with hub_client(monkeypatch, tmp_path, repos, **hub) as client:
        if token is not None:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(FetchFailed) as raised:
            client.pull(source)

    assert words in raised.value.message
    assert "http" not in raised.value.message


# Without the hub


def test_a_complete_copy_serves_while_the_hub_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3(), "owner/other": large_qwen3()}) as client:
        here = client.pull("owner/name")
        client.hub.fail("/revision/", 500, times=100)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        offline = client.pull("owner/name")
        with pytest.raises(FetchFailed, match="owner/other is not on this machine and HF_HUB_OFFLINE forbids"):
            client.pull("owner/other")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        failing = client.pull("owner/name")

    assert (offline.path, offline.revision) == (failing.path, failing.revision) == (here.path, COMMIT)
    assert offline.note == "HF_HUB_OFFLINE is set; the complete copy in the hub's cache was taken"
    assert "the hub answers 500" in str(failing.note)


def test_a_hub_that_cannot_be_reached_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {}) as client:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
        with pytest.raises(FetchFailed, match="the model hub cannot be reached; owner/name was not downloaded"):
            client.pull("owner/name")

    assert len(client.pauses) == 1


# The disk


def test_a_pull_that_does_not_fit_on_the_disk_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_usage(_: Path) -> object:
        return shutil._ntuple_diskusage(100 << 30, 99 << 30, 1 << 20)  # type: ignore[attr-defined]  # its own type

    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        monkeypatch.setattr("models.sources.disk_space.shutil.disk_usage", disk_usage)
        words = r"owner/name needs 2\.0 MiB, 1\.0 MiB are free on the disk of the hub's cache"
        with pytest.raises(FetchFailed, match=words):
            client.pull("owner/name")

    assert client.sizes[0][1] == 1 << 20
    assert client.hub.cdn_requests == []


def test_a_cache_that_cannot_be_written_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        client.cache.write_text("a file where the folder should be")
        with pytest.raises(FetchFailed, match="owner/name could not be written: "):
            client.pull("owner/name")


def test_xet_is_not_used_even_when_it_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        client.hub.xet = True
        assert (client.pull("owner/name").path / WEIGHTS).read_bytes() == LARGE

    assert not any("xet" in path for path, _, _ in client.hub.requests)


@pytest.mark.parametrize("name", ["../../escape.json", "a\\..\\..\\b.json", "/etc/x.json"])
def test_a_repository_whose_file_names_leave_its_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    repos = {"owner/name": {**large_qwen3(), name: b"{}"}}
    with hub_client(monkeypatch, tmp_path, repos) as client, pytest.raises(BadModel, match="leaves its folder"):
        client.pull("owner/name")

    assert not list(tmp_path.rglob("escape*"))


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_file_that_another_program_is_downloading_is_waited_for_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        blob = client.cache / "models--owner--name/blobs" / etag_of(WEIGHTS, LARGE)
        blob.parent.mkdir(parents=True)
        part = blob.with_name(f"{blob.name}.part").open("wb")
        part.write(LARGE[:MIB])
        part.flush()
        fcntl.flock(part, fcntl.LOCK_EX)

        def other_program_ends(_seconds: float) -> None:
            if not is_killed:
                part.write(LARGE[MIB:])
                Path(part.name).rename(blob)
            part.close()

        assert (client.pull("owner/name", pause=other_program_ends).path / WEIGHTS).read_bytes() == LARGE

    ranges = [asked for path, asked, _ in client.hub.requests if path.endswith(WEIGHTS) and asked]
    assert f"waiting for another download of {WEIGHTS}" in [doing for doing, _, _ in client.progress]
    assert ranges == ([f"bytes={MIB}-"] if is_killed else [])
    assert not blob.with_name(f"{blob.name}.part").exists()


def test_a_mirror_may_be_below_the_root_of_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        client.hub.prefix = "/mirror/hub"
        monkeypatch.setattr(constants, "ENDPOINT", f"{client.hub.url}/mirror/hub")
        assert (client.pull("owner/name").path / WEIGHTS).read_bytes() == LARGE

    assert client.hub.requests[0][0].startswith("/mirror/hub/api/models/owner/name/")
