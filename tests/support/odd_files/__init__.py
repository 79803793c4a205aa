"""Files that are odd, damaged or sent to do harm, and what `POST /api/files` must answer to each.

Generated, so that each says what is odd about it, and so that none has to be stored. Nothing here is random twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from tests.support.odd_files.case import Case
from tests.support.odd_files.clips import clips
from tests.support.odd_files.jpeg_and_webp import jpeg_bombs, jpegs, webp_bombs, webps
from tests.support.odd_files.others import others
from tests.support.odd_files.png import png_bombs, pngs


def quick_cases() -> Iterator[Case]:
    """Every fifth of those that are made and answered in milliseconds."""
    yield from islice(chain(pngs(), jpegs(), webps(), others()), 0, None, 5)


def all_cases() -> Iterator[Case]:
    yield from chain(pngs(), jpegs(), webps(), others(), png_bombs(), jpeg_bombs(), webp_bombs(), clips())
