"""Settings of glibc's malloc that make the server process keep freed memory. Pure functions.

They are environment variables of the child, because glibc reads them before the process has threads; other C libraries
ignore them. By default glibc maps every large block anew and returns it at once: a decode on a CPU then spends up to
40 % of its time in page faults, and more while allocations are measured (docs/log.md). What is kept is returned by
`pipelines.device.release_cache`.
"""

from __future__ import annotations

from collections.abc import Mapping

HEAP = {
    "MALLOC_ARENA_MAX": "1",  # further arenas consist of pieces of 64 MiB that are unmapped as soon as they are empty
    "MALLOC_MMAP_MAX_": "0",  # large blocks come from the heap, too
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),  # bytes that may stay free at the end of the heap
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # huge pages where there are any: a page fault per 2 MiB, not 4 KiB
}


def with_heap(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with the settings above that it does not set itself."""
    return {**HEAP, **environment}
