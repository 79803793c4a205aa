"""Reads a multipart form piece by piece as it arrives, within bounds. Event loop only.

The size of the whole body is bounded by `server.http.body`. Here are bounded the number of parts, their headers and
names; a form that breaks a rule is refused at once, without reading the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from server.errors import BadRequest

MAX_PARTS = 100  # a request of any dialect has at most 16 pictures and about 30 other fields
MAX_NAME_BYTES = 100
NO_BOUNDARY = "Content-Type must be multipart/form-data with one boundary."
INVALID = "The body must be a valid form, as its Content-Type says: multipart/form-data."


@dataclass(frozen=True, slots=True)
class UploadedFile:
    data: bytes
    name: str  # as the client calls it, "" if it does not: never a path of this machine
    content_type: str  # as the client says, in lower case and without parameters; "" if it does not say


@dataclass(frozen=True, slots=True)
class Form:
    """Name of a field → all its values, in order."""

    texts: Mapping[str, list[str]]
    files: Mapping[str, list[UploadedFile]]


def is_form(request: Request) -> bool:
    """Whether the body is said to be a form. What it says besides is checked by `read_form`."""
    return request.headers.get("content-type", "").strip().lower().startswith("multipart/form-data")


async def read_form(request: Request, *, max_parts: int = MAX_PARTS) -> Form:
    """Reads the whole body. A part is a file if it has a file name, or a type other than text or JSON.

    Raises `BadRequest` for what is not a form within the bounds, and what the body itself raises: `TooLarge`,
    `TooMany`, `ClientDisconnect`.
    """
    parts = _Parts(max_parts)
    try:
        parser = MultipartParser(
            _boundary(request),
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_name,
                "on_header_value": parts.header_value,
                "on_header_end": parts.end_header,
                "on_headers_finished": parts.end_headers,
                "on_part_data": parts.data,
                "on_part_end": parts.end,
                "on_end": parts.end_form,
            },
        )
        async for piece in request.stream():
            parser.write(piece)
    except FormParserError:
        raise BadRequest(INVALID) from None
    if not parts.is_complete:
        raise BadRequest("The form ends before its last part does.")
    return Form(parts.texts, parts.files)


def _boundary(request: Request) -> bytes:
    headers = request.headers.getlist("content-type")
    kind, options = parse_options_header(headers[0] if len(headers) == 1 else "")
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise BadRequest(NO_BOUNDARY)
    return boundary


@dataclass(slots=True)
class _Parts:
    """What the parser has found so far. Its methods are the parser's callbacks."""

    max_parts: int
    texts: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[UploadedFile]] = field(default_factory=dict)
    is_complete: bool = False
    _n_parts: int = 0
    _headers: dict[str, bytes] = field(default_factory=dict)  # of the part that is read
    _header_name: bytearray = field(default_factory=bytearray)
    _header_value: bytearray = field(default_factory=bytearray)
    _data: bytearray = field(default_factory=bytearray)
    _name: str = ""
    _file_name: str | None = None
    _content_type: str = ""

    def begin(self) -> None:
        self._n_parts += 1
        if self._n_parts > self.max_parts:
            raise BadRequest(f"The form has more than {self.max_parts} parts.")
        self._headers = {}
        self._data = bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        name = self._header_name.decode("latin-1").lower()
        if name in self._headers:
            raise BadRequest(INVALID)
        self._headers[name] = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def end_headers(self) -> None:
        kind, options = parse_options_header(self._headers.get("content-disposition"))
        name = options.get(b"name", b"")
        if kind != b"form-data" or not name:
            raise BadRequest("A part of the form has no name.")
        if len(name) > MAX_NAME_BYTES:
            raise BadRequest(f"A name of a part of the form is longer than {MAX_NAME_BYTES} bytes.")
        if self._headers.get("content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
            raise BadRequest("The parts of a form must be sent as they are, without Content-Transfer-Encoding.")
        self._name = _text(name)
        self._file_name = _text(options[b"filename"]) if b"filename" in options else None
        self._content_type = parse_options_header(self._headers.get("content-type"))[0].decode("latin-1")
        if self._content_type.startswith("multipart/"):
            raise BadRequest("A part of the form is itself a form: send each file as a part of its own.")

    def data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def end(self) -> None:
        data = bytes(self._data)
        self._data = bytearray()
        if self._file_name is None and _is_text(self._content_type):
            self.texts.setdefault(self._name, []).append(_text(data))
        elif data or self._file_name != "":  # a browser sends an empty part for a file that nobody chose
            self.files.setdefault(self._name, []).append(UploadedFile(data, self._file_name or "", self._content_type))

    def end_form(self) -> None:
        self.is_complete = True


def _is_text(content_type: str) -> bool:
    return content_type in ("", "application/json") or content_type.startswith("text/")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("The names and texts of a form must be in UTF-8.") from None
