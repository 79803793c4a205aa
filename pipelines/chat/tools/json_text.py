"""Follows JSON as it comes: tells what belongs to one value, and where it ends. Any thread; no torch.

Two slips of language models inside of strings are mended, so that what is passed on is valid JSON: line breaks that are
not escaped, and backslashes before characters that need none.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 256  # of lists and objects in each other

_WHITE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SCALAR = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_CONSTANTS = ("true", "false", "null")
_HEX = re.compile("[0-9a-fA-F]{4}")


def json_object(text: str) -> dict[str, Any] | None:
    """Returns the object that a text is; None if it is none."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


class NotJson(Exception):
    """What comes next is no JSON."""


class JsonText:
    """One value. `read` takes more of its text at each call."""

    def __init__(self) -> None:
        self.complete = False
        self._closings: list[str] = []  # of the lists and objects that are open
        self._expects = "value"
        self._in_string = False
        self._is_key = False

    def read(self, text: str, at: int, *, ended: bool = False) -> tuple[str, int]:
        """Read what of `text[at:]` belongs to the value. Returns it as valid JSON, and where the rest begins.

        ended: no more text comes. Raises `NotJson`, with the text before it and its place as arguments.
        """
        out: list[str] = []
        while not self.complete:
            step = self._string(text, at, out) if self._in_string else self._structure(text, at, out, ended)
            if step is None:
                break
            at = step
        return "".join(out), at

    def _string(self, text: str, at: int, out: list[str]) -> int | None:
        """Read on inside a string. Returns the next place; None when more text is needed."""
        match = _PLAIN.match(text, at)
        assert match is not None
        if match[0]:
            out.append(match[0])
            return match.end()
        if at == len(text):
            return None
        character = text[at]
        if character == '"':
            out.append('"')
            self._in_string = False
            self._expects = ":" if self._is_key else "after"
            self._end_value()
            return at + 1
        if character != "\\":
            out.append(json.dumps(character)[1:-1])
            return at + 1
        if at + 1 == len(text) or (text[at + 1] == "u" and len(text) < at + 6 and _may_be_hex(text[at + 2 :])):
            return None
        escape = text[at + 1]
        if escape == "u" and _HEX.match(text, at + 2):
            out.append(text[at : at + 6])
            return at + 6
        if escape in '"\\/bfnrt':
            out.append(text[at : at + 2])
            return at + 2
        if escape == "'":
            out.append("'")
            return at + 2
        out.append("\\\\")  # such as the \d of a regular expression
        return at + 1

    def _structure(self, text: str, at: int, out: list[str], ended: bool) -> int | None:
        """Read on outside of strings. Returns the next place; None when more text is needed."""
        match = _WHITE.match(text, at)
        assert match is not None
        if match[0]:
            out.append(match[0])
            return match.end()
        if at == len(text):
            return None
        character, expects = text[at], self._expects
        is_value = expects in ("value", "value or end")
        if expects.endswith("end") and self._closings and character == self._closings[-1]:
            self._closings.pop()
            self._expects = "after"
        elif expects == "after" and self._closings and character in (",", self._closings[-1]):
            if character != ",":
                self._closings.pop()
            else:
                self._expects = "key" if self._closings[-1] == "}" else "value"
        elif expects == ":" and character == ":":
            self._expects = "value"
        elif character == '"' and (is_value or expects.startswith("key")):
            self._in_string, self._is_key = True, not is_value
        elif is_value and character in "{[" and len(self._closings) < MAX_DEPTH:
            self._closings.append("}" if character == "{" else "]")
            self._expects = "key or end" if character == "{" else "value or end"
        elif is_value:
            return self._scalar(text, at, out, ended)
        else:
            raise NotJson("".join(out), at)
        out.append(character)
        self._end_value()
        return at + 1

    def _scalar(self, text: str, at: int, out: list[str], ended: bool) -> int | None:
        match = _SCALAR.match(text, at)
        assert match is not None
        if match.end() == len(text) and match[0] and not ended:
            return None
        if match[0] not in _CONSTANTS and not _NUMBER.fullmatch(match[0]):
            raise NotJson("".join(out), at)
        out.append(match[0])
        self._expects = "after"
        self._end_value()
        return match.end()

    def _end_value(self) -> None:
        self.complete = not self._closings and not self._in_string and self._expects == "after"


def _may_be_hex(text: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in text)
