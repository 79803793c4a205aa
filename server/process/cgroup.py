"""Reads how much memory the control groups (cgroups) of this process leave to it. Linux; any thread.

A container or a systemd unit is a cgroup. When its processes exceed its memory limit, the kernel kills one of them,
however much memory the machine has. Limits hold for a cgroup and everything below it, so every ancestor that can be
seen counts.

Version 2 has one hierarchy with `memory.max` and `memory.current`; version 1 has one for memory with
`memory.limit_in_bytes` and `memory.usage_in_bytes`. A machine may mount both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED = 1 << 60  # bytes; version 1 writes 2^63 less a page where there is no limit


@dataclass(frozen=True, slots=True)
class _Version:
    limits: tuple[str, ...]
    usage: str
    stat_prefix: str  # in memory.stat, of figures that include the cgroups below


# Above memory.high the kernel does not kill but stops the processes until it has taken memory back: as bad as a limit.
_V2 = _Version(("memory.max", "memory.high"), "memory.current", "")
_V1 = _Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_")


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """One cgroup that this process is in. Every figure is read anew: limits may be changed while the server runs."""

    folder: Path
    version: _Version

    def limit_bytes(self) -> int | None:
        """The lowest limit that holds here; None without one."""
        return self._limit(self._stat())

    def available_bytes(self) -> int | None:
        """What may still be taken; None without a limit.

        Files that the kernel keeps in memory (the page cache, and with it mapped weights) count as used by the cgroup,
        but the kernel drops them before it kills: active ones too, which a file is after it was read twice.
        """
        stat, prefix = self._stat(), self.version.stat_prefix
        limit, used = self._limit(stat), _number(self.folder / self.version.usage)
        if limit is None or used is None:
            return None
        files = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
        return max(0, limit - max(0, used - files))

    def _limit(self, stat: Mapping[str, int]) -> int | None:
        limits = [_number(self.folder / name) for name in self.version.limits]
        # Version 1 also tells the limits of ancestors that a container cannot see.
        limits.append(stat.get("hierarchical_memory_limit"))
        return min((limit for limit in limits if limit is not None and limit < UNLIMITED), default=None)

    def _stat(self) -> Mapping[str, int]:
        try:
            lines = (self.folder / "memory.stat").read_text().splitlines()
        except OSError:
            return {}
        return {name: int(value) for name, value in (line.split() for line in lines)}


def memory_cgroups(root: Path = Path("/")) -> list[MemoryCgroup]:
    """The cgroups of this process that account memory, its own first. Empty where there are none. root: for tests."""
    try:
        mounts = list(_mounts((root / "proc/self/mountinfo").read_text()))
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        hierarchy, controllers, path = line.split(":", 2)
        version = _V2 if hierarchy == "0" else _V1 if "memory" in controllers.split(",") else None
        mount = next((mount for mount in mounts if mount.version is version), None)
        if version is not None and mount is not None:
            found += [MemoryCgroup(root / str(folder).lstrip("/"), version) for folder in _folders(mount, path)]
    return [cgroup for cgroup in found if (cgroup.folder / cgroup.version.usage).is_file()]


@dataclass(frozen=True, slots=True)
class _Mount:
    version: _Version
    source: str  # the cgroup that the mount point shows
    point: str


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """Mounts of cgroup hierarchies with memory. Format: proc(5), /proc/pid/mountinfo."""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _source, options = rest.split(" ", 2)
        version = _V2 if kind == "cgroup2" else _V1 if kind == "cgroup" and "memory" in options.split(",") else None
        if version is not None:
            source, point = (_unescaped(field) for field in fields.split(" ")[3:5])
            yield _Mount(version, source, point)


def _folders(mount: _Mount, path: str) -> Iterator[PurePosixPath]:
    """Where the cgroup `path` and its ancestors are, as far up as the mount shows.

    In a container the mount often shows the container's own cgroup, while `path` may be told from the host's root.
    """
    point, inner = PurePosixPath(mount.point), PurePosixPath(path)
    relative = inner.relative_to(mount.source) if inner.is_relative_to(mount.source) else PurePosixPath()
    if ".." in relative.parts:  # outside of what the mount shows
        relative = PurePosixPath()
    yield point / relative
    for parent in relative.parents if relative.parts else ():
        yield point / parent


def _number(file: Path) -> int | None:
    """None for a file that is not there (the root cgroup has no limit) or says "max"."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _unescaped(field: str) -> str:
    """Spaces and backslashes are written in octal: `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
