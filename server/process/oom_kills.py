"""Tells by the kernel's counter whether it has ended processes for want of memory. Any thread."""

from __future__ import annotations

from pathlib import Path

VMSTAT = Path("/proc/vmstat")


def oom_kills(vmstat: Path = VMSTAT) -> int | None:
    """How many processes the kernel of this machine has ended for want of memory, also in containers; None where it
    does not tell.
    """
    try:
        counters = dict(line.split() for line in vmstat.read_text().splitlines())
        return int(counters["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None
