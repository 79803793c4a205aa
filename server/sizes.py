"""Numbers of bytes as people read them."""

from __future__ import annotations


def size(n_bytes: int) -> str:
    """ "1.5 GiB" """
    power = max(0, min(4, (n_bytes.bit_length() - 1) // 10))
    return f"{n_bytes / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
