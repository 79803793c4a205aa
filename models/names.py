"""Gives models their names: those of their folders, in letters that URLs, models.toml and a shell take as they are.

Pure functions. Accents are dropped; letters of other scripts cannot be spelt, so a hash of the whole name keeps two
such folders apart: "模型一" is model-a2f08e. The same folder name gives the same model name on every machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Container
from pathlib import Path

MAX_NAME_CHARS = 64
HASH_CHARS = 6  # 16 million values: enough to tell the folders of one person apart
SPELLINGS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ı": "i"}
)


def slug(text: str) -> str:
    """Returns a name of [a-z0-9][a-z0-9._-]{0,63} for any text."""
    folded = unicodedata.normalize("NFKD", text.lower().translate(SPELLINGS)).lower()
    folded = "".join(char for char in folded if not unicodedata.combining(char))
    name = re.sub(r"[^a-z0-9._-]+", "-", folded).lstrip("._-")
    lost_letters = any(char.isalnum() and not char.isascii() for char in folded)
    if lost_letters or len(name) > MAX_NAME_CHARS:
        return _with_hash(name, text)
    return name or "model"


def unused_name(path: Path, used: Container[str]) -> str:
    """Returns the name of a checkpoint at `path`: its slug, with a hash when another model has that name."""
    text = path.stem if os.path.isfile(path) else path.name  # which never raises
    candidates = (slug(text), _with_hash(slug(text), text), _with_hash(slug(text), str(path)))
    return next(name for name in candidates if name not in used)


def _with_hash(name: str, text: str) -> str:
    digest = hashlib.sha256(unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")).hexdigest()
    short = name[: MAX_NAME_CHARS - 1 - HASH_CHARS].strip("._-") or "model"
    return f"{short}-{digest[:HASH_CHARS]}"
