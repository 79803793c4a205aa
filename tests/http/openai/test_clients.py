"""OpenAI's unmodified clients against the server on a socket: chat, images, videos."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import openai
import pytest

from tests.fakes import messages_in
from tests.support.http.client_programs import run_program
from tests.support.http.front import front
from tests.support.http.http_front import finish_jobs, listening

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),  # about OpenAI's own service
]

PNG = b"\x89PNG\r\n\x1a\n"


async def test_the_python_client_chats(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address, client(f"{address}/v1", f.keys["pro"]) as ai:
        f.engine.reply = lambda request: f"Hé 👋 {len(messages_in(request.prompt))}"
        turns = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        ]
        whole = await ai.chat.completions.create(model="talker", messages=turns, max_tokens=9, stop=["END"])
        stream = await ai.chat.completions.create(
            model="talker", messages=turns, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]

    assert whole.choices[0].message.content == "Hé 👋 2"
    assert (whole.choices[0].finish_reason, whole.model) == ("stop", "talker")
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens == 17
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hé 👋 2"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_python_client_generates_images(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address, client(f"{address}/v1", f.keys["pro"]) as ai:
        finish_jobs(f)
        as_base64 = await ai.images.generate(
            prompt="A city", model="painter", n=2, size="64x64", response_format="b64_json"
        )
        as_url = await ai.images.generate(prompt="A city", response_format="url")
        as_both = await ai.images.generate(prompt="A city")
        async with httpx.AsyncClient() as browser:
            fetched = await browser.get(str((as_url.data or [])[0].url))

    assert [base64.b64decode(str(image.b64_json))[:8] for image in as_base64.data or []] == [PNG, PNG]
    assert fetched.content[:8] == PNG
    assert (as_both.data or [])[0].url
    assert (as_both.data or [])[0].b64_json


@pytest.mark.parametrize(
    ("trusted", "scheme"), [((), "http"), (("10.0.0.0/8",), "http"), (("10.1.2.3", "127.0.0.0/8"), "https")]
)
async def test_links_are_https_behind_a_trusted_proxy(tmp_path: Path, trusted: tuple[str, ...], scheme: str) -> None:
    async with front(tmp_path, allowed_hosts=("box.example",)) as f, listening(f, trusted) as address:
        finish_jobs(f)
        headers = {"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9", "host": "box.example"}
        async with client(f"{address}/v1", f.keys["pro"], headers) as ai:
            images = await ai.images.generate(prompt="A city", response_format="url")

    assert str((images.data or [])[0].url).startswith(f"{scheme}://box.example/api/files/")


async def test_the_python_client_creates_polls_and_downloads_a_video(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address, client(f"{address}/v1", f.keys["pro"]) as ai:
        request = {"prompt": "Waves", "model": "filmer", "seconds": "4", "size": "64x32"}
        first = await ai.videos.create(**request)  # type: ignore[arg-type]  # typed for OpenAI's own models
        finish_jobs(f)
        done = await ai.videos.create_and_poll(prompt="Waves", model="filmer", poll_interval_ms=10)
        clip = await (await ai.videos.download_content(done.id)).aread()
        page = await ai.videos.list(limit=1)
        ids = [video.id async for video in page]
        deleted = await ai.videos.delete(done.id)
        with pytest.raises(openai.NotFoundError):
            await ai.videos.retrieve(done.id)

    assert (first.status, first.seconds, first.size) == ("queued", "4.25", "64x32")
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert clip[4:8] == b"ftyp"
    assert ids == [done.id, first.id]
    assert deleted.deleted


async def test_the_python_client_lists_models_and_maps_errors(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        async with client(f"{address}/v1", f.keys["pro"]) as ai:
            names = [model.id async for model in await ai.models.list()]
            with pytest.raises(openai.NotFoundError, match="no-such"):
                await ai.chat.completions.create(model="no-such", messages=[{"role": "user", "content": "Hi"}])
            with pytest.raises(openai.BadRequestError, match="verbosity is not supported"):
                await ai.chat.completions.create(
                    model="talker", messages=[{"role": "user", "content": "Hi"}], verbosity="low"
                )
        async with client(f"{address}/v1", "an_wrong") as ai:
            with pytest.raises(openai.AuthenticationError):
                await ai.models.list()

    assert names == ["painter", "filmer", "talker", "giant"]


async def test_the_node_client_does_chat_images_and_videos(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        finish_jobs(f)
        printed = await run_program("openai_api.mjs", address, f.keys["pro"], "talker", "painter", "filmer")

    assert printed == "ok"


def client(base_url: str, key: str, headers: dict[str, str] | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=20, default_headers=headers)
