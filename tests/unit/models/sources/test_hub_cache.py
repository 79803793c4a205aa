"""What the hub's cache has is used, whoever wrote it, and completed where it is not complete. No network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.sources import cached_revision
from models.sources.hub_cache import find_in_cache
from models.sources.hub_id import HubId
from tests.support import hub_repositories as shapes
from tests.support.fake_hub import COMMIT, TOKEN
from tests.support.hub_client import HubClient, hub_client, in_snapshot
from tests.support.hub_repositories import LARGE, WEIGHTS, large_qwen3


def resolved_since(client: HubClient, n_requests: int) -> list[str]:
    return [path.rpartition("/")[2] for path, _, _ in client.hub.requests[n_requests:] if "/resolve/" in path]


def test_what_another_program_left_in_the_cache_is_kept_and_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = shapes.sdxl_base()
    with hub_client(monkeypatch, tmp_path, {"owner/name": repo}) as client:
        here = ["model_index.json", "text_encoder/config.json", "text_encoder/model.safetensors"]
        snapshot = client.lay_down("owner/name", {name: repo[name] for name in here})
        assert find_in_cache(HubId("owner/name", None, None)) is None
        fetched = client.pull("owner/name")

    assert fetched.path == snapshot
    assert not set(here) & {*client.hub.resolved()}
    assert "unet/diffusion_pytorch_model.safetensors" in client.hub.resolved()


def test_a_complete_snapshot_of_a_variant_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As diffusers leaves it after from_pretrained(variant="fp16")."""
    repo = shapes.sdxl_base()
    plain = [f"{part}.safetensors" for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model")]
    plain += ["text_encoder/model.safetensors", "text_encoder_2/model.safetensors"]
    with hub_client(monkeypatch, tmp_path, {"owner/name": repo}) as client:
        kept = {name: data for name, data in repo.items() if "/" in name and name not in plain}
        snapshot = client.lay_down("owner/name", kept | {"model_index.json": repo["model_index.json"]})

        assert find_in_cache(HubId("owner/name", None, None)) == snapshot
        assert client.pull("owner/name").path == snapshot
        assert client.hub.resolved() == []


def test_a_link_whose_blob_is_gone_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        path = client.pull("owner/name").path
        (path / WEIGHTS).resolve().unlink()
        assert find_in_cache(HubId("owner/name", None, None)) is None
        n_requests = len(client.hub.requests)
        client.pull("owner/name")

        assert resolved_since(client, n_requests) == [WEIGHTS]
        assert (path / WEIGHTS).read_bytes() == LARGE


def test_a_file_that_was_cut_off_is_downloaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        client.lay_down("owner/name", {**large_qwen3(), WEIGHTS: LARGE[:1000]})
        path = client.pull("owner/name").path

    assert (path / WEIGHTS).read_bytes() == LARGE
    assert client.hub.resolved() == [WEIGHTS]


def test_a_blob_of_another_commit_is_linked_and_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        first = client.pull("owner/name")
        commit = client.hub.push("owner/name", large_qwen3() | {"generation_config.json": b'{"top_k": 1}'})
        n_requests = len(client.hub.requests)
        second = client.pull("owner/name")

        assert resolved_since(client, n_requests) == ["generation_config.json"]
        assert (first.revision, second.revision) == (COMMIT, commit)
        assert first.path != second.path
        assert (second.path / WEIGHTS).read_bytes() == LARGE
        assert in_snapshot(first) == in_snapshot(second)


def test_the_library_itself_finds_what_was_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download

    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        path = client.pull("owner/name").path
        n_requests = len(client.hub.requests)
        cache = {"cache_dir": str(client.cache), "local_files_only": True}
        assert snapshot_download("owner/name", **cache) == str(path)  # type: ignore[arg-type]  # by keyword
        assert hf_hub_download("owner/name", WEIGHTS, **cache) == str(path / WEIGHTS)  # type: ignore[arg-type]
        assert len(client.hub.requests) == n_requests


# Revisions


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/3", "fp16-branch"])
def test_a_revision_means_what_it_meant_when_it_was_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        commit = client.hub.push("owner/name", shapes.qwen3(2), revision)
        fetched = client.pull(f"owner/name@{revision}")
        client.hub.push("owner/name", large_qwen3(), revision)

        assert fetched.revision == commit
        assert fetched.path.name == commit
        assert find_in_cache(HubId("owner/name", revision, None)) == fetched.path
        assert find_in_cache(HubId("owner/name", None, None)) is None
        assert client.pull(f"owner/name@{revision}").revision != commit
        assert find_in_cache(HubId("owner/name", commit, None)) == fetched.path, "the pinned commit stays"


def test_a_commit_needs_no_branch_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        client.hub.push("owner/name", shapes.qwen3(2))
        fetched = client.pull(f"owner/name@{COMMIT}")

    assert fetched.revision == COMMIT
    assert (fetched.path / WEIGHTS).is_file()
    assert not list(client.cache.glob("*/refs/*"))


def test_a_repository_that_was_renamed_is_found_under_its_old_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/new": large_qwen3()}, gated={"owner/new"}) as client:
        client.hub.renamed["owner/old"] = "owner/new"
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert client.pull("owner/old").path.is_dir()


@pytest.mark.parametrize(
    "name",
    ["a b.safetensors", "Модель [v2] (final).safetensors", "sub folder/模型+v1,2.gguf", "it's 100% #1?.safetensors"],
)
def test_a_file_is_downloaded_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": {name: LARGE, "other.safetensors": b"x"}}) as client:
        fetched = client.pull(f"owner/name:{name}")

    assert fetched.path.read_bytes() == LARGE
    assert client.hub.resolved() == [name]


def test_looking_into_the_cache_is_quick_and_pins_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        path = client.pull("owner/name").path
    program = (
        "import sys; from pathlib import Path; from models.sources import find;"
        "print(find('owner/name', relative_to=Path('/'), cache_dir=Path('/')));"
        "print(find('owner/other', relative_to=Path('/'), cache_dir=Path('/')));"
        "print([name for name in ('huggingface_hub', 'httpx2', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n") == [str(path), "None", "[]", ""]
    assert cached_revision("owner/name", relative_to=tmp_path) == COMMIT
    assert cached_revision("owner/other", relative_to=tmp_path) is None


def test_a_base_needs_no_denoiser_and_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that brings its own denoiser takes the rest from whatever part of the repository is in the cache."""
    repo = shapes.flux()
    wanted = HubId("owner/name", None, None)
    with hub_client(monkeypatch, tmp_path, {"owner/name": repo}) as client:
        layout = {name: data for name, data in repo.items() if "/" in name or name == "model_index.json"}
        base = {name: data for name, data in layout.items() if not name.startswith("transformer/diffusion")}
        folder = client.lay_down("owner/name", base)
        assert find_in_cache(wanted, without_weights=("transformer",)) == folder
        assert find_in_cache(wanted) is None
        (folder / "text_encoder_2/model-00002-of-00002.safetensors").unlink()
        assert find_in_cache(wanted, without_weights=("transformer",)) is None


def test_a_file_system_without_links_gets_the_files_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    symlink = os.symlink

    def refuse(source: str, link: str, *more: object) -> None:
        if str(link).startswith(str(tmp_path)):
            raise PermissionError(1, "Operation not permitted")
        symlink(source, link)

    monkeypatch.setattr(os, "symlink", refuse)
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        path = client.pull("owner/name").path
        assert (path / WEIGHTS).read_bytes() == LARGE
        assert not (path / WEIGHTS).is_symlink()
        n_requests = len(client.hub.requests)
        assert client.pull("owner/name").path == path
        assert resolved_since(client, n_requests) == []


def test_a_complete_copy_in_a_cache_that_may_only_be_read_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_client(monkeypatch, tmp_path, {"owner/name": large_qwen3()}) as client:
        path = client.pull("owner/name").path
        before = {file: file.lstat().st_mtime_ns for file in client.cache.rglob("*")}
        assert client.pull("owner/name").path == path
        assert {file: file.lstat().st_mtime_ns for file in client.cache.rglob("*")} == before, "nothing was written"
