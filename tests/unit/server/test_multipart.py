"""Forms as clients send them, cut anywhere, and forms that are sent to do harm."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from server.api.shared.multipart import MAX_PARTS, Form, UploadedFile, read_form
from server.errors import BadRequest

PNG = b"\x89PNG\r\n\x1a\n--b\r\n\r\n--B\r"
KIND = "multipart/form-data; boundary=b"


def read(body: bytes, content_type: str = KIND, *, cuts: Sequence[int] = (), ends: bool = True) -> Form:
    """cuts: where the body is cut into pieces that arrive one by one. ends: or the client disconnects."""
    edges = [0, *sorted(cuts), len(body)]
    pieces: list[Message] = [
        {"type": "http.request", "body": body[start:end], "more_body": True} for start, end in itertools.pairwise(edges)
    ]
    pieces.append({"type": "http.request", "body": b"", "more_body": False} if ends else {"type": "http.disconnect"})

    async def receive() -> Message:
        return pieces.pop(0)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode("latin-1"))]}
    return asyncio.run(read_form(Request(scope, receive)))


def part(headers: str, data: bytes = b"x") -> bytes:
    return b"--b\r\n" + headers.encode() + b"\r\n\r\n" + data + b"\r\n"


def named(name: str, data: bytes = b"x", more: str = "") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"{more}', data)


END = b"--b--\r\n"
TWO = named("prompt", "Käse".encode()) + named("image[]", PNG, '; filename="a.png"\r\nContent-Type: image/png') + END


def test_texts_and_files_are_read_as_a_common_client_sends_them() -> None:
    request = httpx.Request(
        "POST",
        "http://localhost",
        data={"prompt": "a red fox", "n": "2"},
        files=[("image[]", ("a.png", PNG, "image/png")), ("image[]", ("b.png", b"", "image/png"))],
    )

    form = read(request.read(), request.headers["content-type"])

    assert form.texts == {"prompt": ["a red fox"], "n": ["2"]}
    assert form.files == {"image[]": [UploadedFile(PNG, "a.png", "image/png"), UploadedFile(b"", "b.png", "image/png")]}


@given(st.lists(st.integers(0, len(TWO)), max_size=12))
def test_a_form_is_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    form = read(TWO, cuts=cuts)

    assert form.texts == {"prompt": ["Käse"]}
    assert form.files == {"image[]": [UploadedFile(PNG, "a.png", "image/png")]}


def test_a_part_of_another_type_than_text_is_a_file_without_a_name_too() -> None:
    form = read(
        named("image", PNG, "\r\nContent-Type: Image/PNG; q=1")
        + named("input_reference", b"{}", "\r\nContent-Type: application/json")
        + named("note", b"hi", "\r\nContent-Type: text/plain; charset=utf-8")
        + END
    )

    assert form.files == {"image": [UploadedFile(PNG, "", "image/png")]}
    assert form.texts == {"input_reference": ["{}"], "note": ["hi"]}


def test_a_file_that_nobody_chose_is_not_there() -> None:
    form = read(named("mask", b"", '; filename=""\r\nContent-Type: application/octet-stream') + END)

    assert form.files == {}


def test_an_empty_form_has_nothing() -> None:
    assert read(END) == Form({}, {})


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 300,
        "multipart/mixed; boundary=b",
        "application/json",
        "",
    ],
)
def test_a_body_without_a_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(BadRequest):
        read(TWO, content_type)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"x" * 10_000,
        TWO[:-9],  # ends within a part
        TWO.replace(b"--b--", b"--c--"),
        b"--b\r\n\r\nno headers\r\n" + END,
        part("Content-Disposition: form-data") + END,
        part('Content-Disposition: form-data; name=""') + END,
        part('Content-Disposition: attachment; name="a"') + END,
        part("Content-Type: image/png") + END,
        named("a" * 101) + END,
        named("a", b"\xff") + END,
        part('Content-Disposition: form-data; name="a"\r\ncontent-disposition: form-data; name="b"') + END,
        named("a", b"eA==", "\r\nContent-Transfer-Encoding: base64") + END,
        named("a", b"--c\r\n", "\r\nContent-Type: multipart/mixed; boundary=c") + END,
        named("a", b"x", "\r\nX-Long: " + "y" * 100_000) + END,
        named("a", b"x", "".join(f"\r\nX-{i}: y" for i in range(50))) + END,
        part('Content-Disposition: form-data; name="a"\r\nBad Header: y') + END,
        named("a") * (MAX_PARTS + 1) + END,
    ],
    ids=range(19),
)
def test_a_form_that_breaks_a_rule_is_refused_and_nothing_of_it_is_told(body: bytes) -> None:
    for cuts in ((), range(0, len(body), 7)):
        with pytest.raises(BadRequest) as refused:
            read(body, cuts=cuts)

        assert "y" * 20 not in refused.value.message
        assert len(refused.value.message) < 120


def test_as_many_parts_as_allowed_are_read() -> None:
    assert len(read(named("a") * MAX_PARTS + END).texts["a"]) == MAX_PARTS


def test_the_rest_of_a_form_with_too_many_parts_is_not_read() -> None:
    body = named("a") * (MAX_PARTS + 1)

    with pytest.raises(BadRequest, match="more than 100 parts"):
        read(body, cuts=[len(body)], ends=False)


def test_a_client_that_disconnects_ends_the_reading() -> None:
    with pytest.raises(ClientDisconnect):
        read(TWO[:30], ends=False)
