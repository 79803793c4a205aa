"""Pictures in chat completions: which models take them, what the prompt reader gets, and how URLs are fetched."""

from __future__ import annotations

import asyncio
import base64
import io
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from models.spec import Limits
from tests.fakes import FakeCatalogue, FakeReply, small_catalogue, spec
from tests.support.http.client_programs import run_program
from tests.support.http.front import Front, front
from tests.support.http.http_front import listening
from tests.support.http.mutations import fault_of_refusal, mutated
from tests.support.http.web_site import reply_of, web

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


def png(side: int = 3) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
DATA_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def ask(*urls: str, model: str = "seer") -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"model": model, "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, *parts]}]}


@asynccontextmanager
async def seeing(folder: Path, **options: Any) -> AsyncIterator[Front]:
    seer = spec("seer", "chat", takes_images=True, limits=Limits(context_tokens=65_536))
    async with front(folder, catalogue=FakeCatalogue(*small_catalogue().specs(), seer), **options) as f:
        f.engine.reply = lambda _: FakeReply("A cat.")
        yield f


async def test_the_prompt_reader_gets_the_pictures_and_their_places(tmp_path: Path) -> None:
    async with seeing(tmp_path) as f:
        reply = await f.post(CHAT, ask(DATA_URL, DATA_URL))
        [[message]] = f.prompt_reader.messages

    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == "A cat."
    assert (message.content, [(image.at, image.data) for image in message.images]) == ("What?", [(5, PNG), (5, PNG)])


async def test_a_model_that_takes_no_pictures_refuses_them_and_names_one_that_does(tmp_path: Path) -> None:
    async with seeing(tmp_path) as f:
        reply = await f.post(CHAT, ask(DATA_URL, model="talker"), "free")
        used = await f.used("chats")
        models = (await f.get("/api/models")).json()["models"]

    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("The model talker takes no pictures. Models that do: seer.")
    assert used == 0
    assert {model["name"]: model["inputs"] for model in models if model["type"] == "chat"} == {
        "talker": ["text"],
        "seer": ["text", "image"],
    }


async def test_urls_are_refused_unless_the_server_may_fetch(tmp_path: Path) -> None:
    async with seeing(tmp_path) as f:
        reply = await f.post(CHAT, ask("https://example.org/cat.png"))

    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith(
        "messages[0].content[1].image_url.url must be a data URL: this server fetches no pictures from the network."
    )


FETCHING: dict[str, Any] = {"fetch_images": True, "image_networks": ("127.0.0.0/8",)}


async def test_a_picture_is_fetched_and_redirects_are_followed(tmp_path: Path) -> None:
    async with web() as site, seeing(tmp_path, **FETCHING) as f:
        site.replies["/cat.png"] = reply_of(PNG)
        site.replies["/old"] = reply_of(b"", "Location: /cat.png#top", status="302 Found")
        reply = await f.post(CHAT, ask(site.url("/old"), DATA_URL, site.url("/cat.png")))
        [[message]] = f.prompt_reader.messages

    assert reply.status_code == 200, reply.text
    assert [image.data for image in message.images] == [PNG, PNG, PNG]
    assert sorted(site.asked) == ["/cat.png", "/cat.png", "/old"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/missing", "the picture could not be fetched: its server answered with the status 404"),
        ("/page", "must be the URL of a PNG, JPEG, WebP or GIF file"),
        ("/large", "the picture could not be fetched: it is larger than 20.0 MiB"),
        ("/loop", "it was redirected more than 3 times"),
        ("/elsewhere", "must be an http or https URL"),
        ("/inside", "must be an address outside this server's own network"),
        ("/broken", "the picture could not be fetched: its server does not answer"),
    ],
)
async def test_what_cannot_be_fetched_is_refused_and_not_charged(tmp_path: Path, path: str, error: str) -> None:
    async with web() as site, seeing(tmp_path, **FETCHING) as f:
        site.replies |= {
            "/page": reply_of(b"<html>"),
            "/large": reply_of(PNG + bytes(21 << 20)),
            "/loop": reply_of(b"", "Location: /loop", status="301 Moved"),
            "/elsewhere": reply_of(b"", "Location: file:///etc/passwd", status="301 Moved"),
            "/inside": reply_of(b"", "Location: http://10.0.0.1/cat.png", status="307 Moved"),
            "/broken": b"not HTTP at all\r\n\r\n",
        }
        reply = await f.post(CHAT, ask(site.url(path)), "free")
        used = await f.used("chats")

    assert reply.status_code == 400
    assert error in reply.json()["error"]["message"]
    assert reply.json()["error"]["message"].startswith("messages[0].content[1].image_url.url")
    assert used == 0


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/a.png", "http://[::1]/a.png", "http://169.254.169.254/latest/meta-data", "http://a:b@c/"],
)
async def test_addresses_of_the_servers_own_network_are_never_called(tmp_path: Path, url: str) -> None:
    async with seeing(tmp_path, fetch_images=True) as f:
        reply = await f.post(CHAT, ask(url))

    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("messages[0].content[1].image_url.url must be")


async def test_a_request_may_name_only_a_few_pictures_by_url(tmp_path: Path) -> None:
    async with seeing(tmp_path, **FETCHING) as f:
        reply = await f.post(CHAT, ask(*["http://127.0.0.1:1/a.png"] * 9))

    assert reply.status_code == 400
    assert "messages[0].content[9].image_url.url: a request may name at most 8 pictures by URL" in reply.text


@pytest.mark.slow
async def test_mutated_pictures_are_answered_or_refused_in_shape(tmp_path: Path) -> None:
    body = ask(DATA_URL, DATA_URL)
    body["messages"][0]["content"] += [{"type": "input_image", "image_url": DATA_URL}, {"type": "image_url"}]
    statuses: Counter[int] = Counter()
    async with seeing(tmp_path) as f:
        for number in range(300):
            reply = await asyncio.wait_for(f.post(CHAT, mutated(body, Random(number), 1_000_000)), 10)
            statuses[reply.status_code] += 1
            fault = None if reply.status_code == 200 else fault_of_refusal(reply)
            assert fault is None, (number, fault)

    assert statuses.keys() <= {200, 400, 404, 413}
    assert statuses[400] > 100


def shown(messages: Sequence[Any]) -> list[tuple[str, list[tuple[int, bool, int | None]]]]:
    return [
        (message.content, [(image.at, image.data == PNG, image.longest_side) for image in message.images])
        for message in messages
    ]


@pytest.mark.slow
async def test_openai_and_langchain_show_pictures(tmp_path: Path) -> None:
    async with seeing(tmp_path) as f, listening(f) as address:
        found = await run_program("pictures.py", address, f.keys["pro"], base64.b64encode(PNG).decode())
        seen = [shown(messages) for messages in f.prompt_reader.messages]

    assert found == {"replies": ["A cat."] * 4}
    both, one = [(14, True, 512), (14, True, None)], [(14, True, None)]
    assert seen == [[("What is this? ", images)] for images in (both, both, one, one)]
