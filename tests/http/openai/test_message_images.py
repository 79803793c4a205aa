"""Pictures in messages as each dialect's clients write them: what is read of them, and what is refused where."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from PIL import Image

from pipelines.chat_interface import Message, MessageImage
from server.api.openai.message_schema import read_messages
from server.api.shared.message_images import MAX_IMAGES, ContentParts, RequestImages
from server.errors import BadRequest
from server.jobs.image_files import MAX_IMAGE_BYTES


def file(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, kind)
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


PNG = file()
URL = f"data:image/png;base64,{base64_of(PNG)}"


def part(url: Any = URL, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def user(*parts: Any) -> Message:
    return read_messages([{"role": "user", "content": list(parts)}])[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_each_type_of_file_is_known_by_its_bytes_whatever_the_url_says(kind: str) -> None:
    data = file(kind)

    assert user(part(f"data:image/jpeg;base64,{base64_of(data)}")).images[0].data == data


@pytest.mark.parametrize(
    "written",
    [
        part(),
        {"type": "image_url", "image_url": URL},
        {"type": "input_image", "image_url": URL, "detail": "auto"},
        part(f"DATA:image/png;name=a.png;BASE64,{base64_of(PNG)}", detail="high"),
        part(f"data:;base64,{base64.encodebytes(PNG).decode()}"),
    ],
)
def test_every_way_to_write_a_picture_is_read(written: Any) -> None:
    [image] = user(written).images

    assert (image.data, image.url, image.longest_side) == (PNG, "", None)


def test_low_detail_asks_for_a_smaller_picture() -> None:
    assert user(part(detail="low")).images[0].longest_side == 512


def test_pictures_keep_their_places_among_the_texts() -> None:
    message = user(part(), "one", "two", part(), part(), {"type": "text", "text": "three"})

    assert message.content == "one\ntwothree"
    assert [image.at for image in message.images] == [0, 7, 7]


def test_the_result_of_a_tool_may_have_pictures() -> None:
    [message] = read_messages([{"role": "tool", "tool_call_id": "c1", "content": [part()]}])

    assert message.images == (MessageImage(0, PNG, place="messages[0].content[0].image_url.url"),)


def test_the_forms_of_anthropic_and_ollama_are_read() -> None:
    images = RequestImages()
    source = {"type": "base64", "media_type": "image/png", "data": base64_of(PNG)}
    parts = ContentParts()
    parts.add_text("Look: ")
    parts.add_image(images.anthropic_part({"type": "image", "source": source}, "messages[0].content[1]"))
    parts.add_image(images.base64(base64_of(PNG), "messages[0].images[0]"))

    assert [(image.at, image.data) for image in parts.images] == [(6, PNG), (6, PNG)]
    assert images.anthropic_part({"source": {"type": "url", "url": "https://a.b/c"}}, "x").url == "https://a.b/c"


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ({"type": "image_url"}, "messages[0].content[0].image_url must be a data URL"),
        (part(None), "messages[0].content[0].image_url.url must be a data URL"),
        (part("file:///etc/passwd"), "messages[0].content[0].image_url.url must be a data URL"),
        (part("data:image/png,abc"), "messages[0].content[0].image_url.url must be a data URL"),
        (part("https://" + "a" * 2000), "messages[0].content[0].image_url.url must be a data URL"),
        (part(URL + "!"), "must be the base64 of a PNG, JPEG, WebP or GIF file, without other characters"),
        (part(URL[:-3]), "must be the base64 of a PNG"),
        (part(URL + "é"), "must be the base64 of a PNG"),
        (part("data:image/png;base64,"), "must be a PNG, JPEG, WebP or GIF file"),
        (part("data:image/svg+xml;base64," + base64_of(b"<svg/>")), "must be a PNG, JPEG, WebP or GIF file"),
        (part(detail="huge"), "messages[0].content[0].image_url.detail must be one of auto, low, high"),
        (part(detail=["low"]), "messages[0].content[0].image_url.detail must be one of auto, low, high"),
        ({"type": "input_image", "file_id": "file_1"}, "messages[0].content[0].file_id must be the id of a picture"),
        ({**part(), "file_id": "file_1"}, "messages[0].content[0].file_id must be left out beside image_url"),
    ],
)
def test_a_picture_that_cannot_be_read_is_refused_with_its_place(written: Any, error: str) -> None:
    with pytest.raises(BadRequest) as refused:
        user(written)

    assert error in refused.value.message
    assert refused.value.param == "messages"


@pytest.mark.parametrize("source", [None, 7, {}, {"type": "s3", "file_id": "x"}, {"type": ["base64"]}])
def test_another_source_of_a_picture_is_refused(source: Any) -> None:
    with pytest.raises(BadRequest, match=r"x\.source\.type must be base64, url or file"):
        RequestImages().anthropic_part({"source": source}, "x")


def test_a_picture_that_is_too_large_is_refused() -> None:
    data = PNG + bytes(MAX_IMAGE_BYTES)

    for size in (MAX_IMAGE_BYTES + 1, len(data)):
        with pytest.raises(BadRequest, match=r"must be a picture of at most 20.0 MiB"):
            user(part(f"data:image/png;base64,{base64_of(data[:size])}"))
    assert len(user(part(f"data:image/png;base64,{base64_of(data[:MAX_IMAGE_BYTES])}")).images) == 1


def test_a_request_may_have_only_so_many_pictures() -> None:
    with pytest.raises(BadRequest, match=f"a request may have at most {MAX_IMAGES} pictures"):
        read_messages([{"role": "user", "content": [part()] * 40}] * 2)


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_only_users_and_tools_show_pictures(role: str) -> None:
    with pytest.raises(BadRequest, match="a part of the type image_url is not supported here"):
        read_messages([{"role": role, "content": [part()]}])
