"""What the fake hub holds and how it is told to misbehave: repositories with commits, branches, tokens, failures."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # the first commit of every repository
TOKEN = "hf_letmein"  # opens the gated and private repositories
OTHER_TOKEN = "hf_other"  # a valid token of an account without access to them
LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".ckpt", ".pt", ".pth", ".onnx", ".msgpack", ".h5", ".model")

Files = dict[str, bytes]


@dataclass
class Failure:
    """Answers of an error to the next requests whose path contains a text."""

    part: str
    status: int
    times: int
    headers: Mapping[str, str]


@dataclass
class Hub:
    """repos: "owner/name" → file name → bytes, at the first commit. gated, private: repositories that require TOKEN."""

    url: str
    cdn_url: str
    repos: dict[str, Files]
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)  # old name → new name
    prefix: str = ""  # of every path, for a mirror that is not at the root of its host
    page_size: int = 1000  # files on one page of a list
    xet: bool = False  # large files are also offered by Xet
    break_at: int | None = None  # the next larger file breaks off after so many bytes, once
    hold_at: int | None = None  # a larger file stops after so many bytes until `release`
    released: threading.Event = field(default_factory=threading.Event)
    failures: list[Failure] = field(default_factory=list)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # path, range, authorization
    cdn_requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)  # of the second host
    commits: dict[str, dict[str, Files]] = field(default_factory=dict)  # repository → later commit → files
    _refs: dict[str, dict[str, str]] = field(default_factory=dict)  # repository → branch or tag → commit

    def release(self) -> None:
        self.hold_at = None
        self.released.set()

    def fail(self, part: str, status: int, *, times: int = 1, **headers: str) -> None:
        """Answers `status` to the next requests whose path contains `part`. headers: `Retry_After="0"`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.failures.append(Failure(part, status, times, named))

    def push(self, repo: str, files: Files, revision: str = "main") -> str:
        """Makes a commit with these files, which the branch, tag or "refs/pr/N" means from now on."""
        later = self.commits.setdefault(repo, {})
        commit = hashlib.sha1(f"{repo} {len(later)}".encode()).hexdigest()
        later[commit] = files
        self._refs.setdefault(repo, {})[revision] = commit
        return commit

    def commit_of(self, repo: str, revision: str) -> str | None:
        refs = {"main": COMMIT} | self._refs.get(repo, {})
        known = {COMMIT, *self.commits.get(repo, {})}
        return refs.get(revision) or (revision if revision in known else None)

    def files(self, repo: str, commit: str) -> Files:
        return self.repos[repo] if commit == COMMIT else self.commits[repo][commit]

    def resolved(self) -> list[str]:
        """Returns the files of repositories that were asked for, in order and each once: no configs asked twice."""
        names = (path.partition("/resolve/")[2].partition("/")[2] for path, _, _ in self.requests)
        return list(dict.fromkeys(name for name in names if name))


def is_lfs(name: str) -> bool:
    return name.endswith(LFS_SUFFIXES)


def etag_of(name: str, content: bytes) -> str:
    """Returns the SHA-256 of a large file, and of a small one the hash by which git names it."""
    return sha256(content) if is_lfs(name) else git_hash(content)


@lru_cache(maxsize=256)
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
