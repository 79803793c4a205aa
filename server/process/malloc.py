"""How the C library keeps freed memory for the server process. Said in its environment, before it has threads; glibc reads it, others do not.

By itself glibc maps every large block anew and gives it back at once: a decode on a CPU then spends up to 40 % of its time in page faults,
and once allocations are measured still more (docs/log.md). `pipelines.device.release_cache` gives back what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

HEAP = {
    "MALLOC_ARENA_MAX": "1",  # the arena of another than the first thread comes in pieces of 64 MiB that are unmapped when empty
    "MALLOC_MMAP_MAX_": "0",  # large blocks come from the heap too
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),  # this much may lie free at its end
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # in huge pages where the system has them: a fault for 2 MiB, not for 4 KiB
}


def with_heap(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment`, and what it does not say of the heap."""
    return {**HEAP, **environment}
