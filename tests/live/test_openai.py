"""OpenAI's own clients, unmodified, against the real server and its models: what an app sees after changing its URL."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import imageio_ffmpeg
import openai
import pytest
from PIL import Image, ImageChops

from tests.support.http.client_programs import run_program
from tests.support.http.live_server import LiveServer

pytestmark = [
    pytest.mark.live,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),  # the client warns about OpenAI's own service
]

MODELS = ("smollm2-135m", "tiny-scenes", "tiny-motion")
CHAT_MODEL, IMAGE_MODEL, VIDEO_MODEL = MODELS
ROUNDED = 0.3  # packed weights take their inputs in bfloat16, and a batch adds up in another order


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("openai") / "data").start()
    yield live
    assert live.stop() == 0


def test_a_chat_gives_the_same_text_streamed_and_not(ai: openai.OpenAI) -> None:
    question = [{"role": "user", "content": "What is the sea?"}]
    request: Any = {"model": CHAT_MODEL, "messages": question, "temperature": 0, "max_tokens": 24}
    whole = ai.chat.completions.create(**request)
    chunks = list(ai.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]

    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 8  # streamed as it was generated, not in one piece
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens == 24
    assert whole.choices[0].finish_reason == [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


def test_a_response_goes_on_with_the_one_before_as_a_chat_does(ai: openai.OpenAI) -> None:
    settings: Any = {"model": CHAT_MODEL, "temperature": 0}
    first = ai.responses.create(input="What is the sea?", max_output_tokens=16, **settings)
    with ai.responses.stream(
        input="Is it deep?", previous_response_id=first.id, max_output_tokens=16, **settings
    ) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    messages: list[Any] = [
        {"role": "user", "content": "What is the sea?"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Is it deep?"},
    ]
    chat = ai.chat.completions.create(messages=messages, max_tokens=16, **settings)

    assert (first.status, first.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert first.usage.output_tokens == 16
    assert "".join(deltas) == chat.choices[0].message.content
    assert len(deltas) > 4  # streamed as it was generated, not in one piece


def test_a_text_has_the_log_probabilities_that_it_was_written_with(ai: openai.OpenAI) -> None:
    prompt, usual = "The capital of France is", {"model": CHAT_MODEL, "temperature": 0, "logprobs": 2}
    wrote = ai.completions.create(**usual, prompt=prompt, max_tokens=16, echo=True)
    choice = wrote.choices[0]
    others = ["Once upon a time", prompt, "The sea"]
    scored = ai.completions.create(**usual, prompt=[choice.text, *others], max_tokens=0, echo=True)
    chunks = list(ai.completions.create(**usual, prompt=prompt, max_tokens=16, echo=True, stream=True))

    whole = scored.choices[0].logprobs
    assert choice.text.startswith(prompt)
    assert whole.tokens == choice.logprobs.tokens
    assert whole.text_offset == choice.logprobs.text_offset
    assert [choice.text[i:].startswith(t) for i, t in zip(whole.text_offset, whole.tokens, strict=True)] == [True] * 21
    assert whole.token_logprobs[0] is choice.logprobs.token_logprobs[0] is None
    assert whole.token_logprobs[1:] == pytest.approx(choice.logprobs.token_logprobs[1:], abs=ROUNDED)
    assert scored.choices[2].logprobs.token_logprobs[1:] == pytest.approx(whole.token_logprobs[1:5], abs=ROUNDED)
    assert [each.text for each in scored.choices[1:]] == others
    assert scored.usage.completion_tokens == 0
    parts = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(part.text for part in parts) == choice.text
    streamed = [value for part in parts if part.logprobs for value in part.logprobs.token_logprobs]
    assert streamed[1:] == pytest.approx(choice.logprobs.token_logprobs[1:], abs=ROUNDED)


def test_a_stop_string_ends_a_reply_and_is_not_part_of_it(ai: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Count from one to ten."}]
    full = ai.chat.completions.create(model=CHAT_MODEL, messages=messages, temperature=0, max_tokens=40)
    text = str(full.choices[0].message.content)
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    cut = ai.chat.completions.create(model=CHAT_MODEL, messages=messages, temperature=0, max_tokens=40, stop=[stop])

    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_closing_a_stream_cancels_the_reply(ai: openai.OpenAI, server: LiveServer) -> None:
    stream = ai.chat.completions.create(
        model=CHAT_MODEL, messages=[{"role": "user", "content": "Write a long story."}], max_tokens=4000, stream=True
    )
    next(iter(stream))
    stream.close()

    again = ai.chat.completions.create(model=CHAT_MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=1)
    assert again.choices[0].finish_reason == "length"
    # The snapshot is at most a tenth of a second old; without the cancellation the reply would have 516 tokens more.
    server.wait_until("/api/queue", lambda queue: queue["running"] == [], timeout_s=3)


def test_images_come_as_base64_and_as_links_and_are_the_same_for_a_seed(ai: openai.OpenAI) -> None:
    own_fields = {"steps": 2, "seed": 6}
    as_text = ai.images.generate(
        prompt="A forest", model=IMAGE_MODEL, n=2, response_format="b64_json", extra_body=own_fields
    )
    as_link = ai.images.generate(prompt="A forest", model=IMAGE_MODEL, response_format="url", extra_body=own_fields)
    first, second = [open_png(base64.b64decode(str(made.b64_json))) for made in as_text.data or []]
    linked = open_png(httpx.get(str((as_link.data or [])[0].url)).content)

    assert linked.tobytes() != second.tobytes()
    # Of 255: a batch of two rounds otherwise than one alone.
    assert max(high for _, high in difference(first, linked)) <= 2


def test_a_video_is_created_polled_downloaded_and_deleted(ai: openai.OpenAI, tmp_path: Path) -> None:
    length: Any = "1"  # the client's type allows only the lengths that OpenAI's models can make
    made = ai.videos.create(prompt="Ocean waves at sunset", model=VIDEO_MODEL, seconds=length)
    seen = [made.progress]
    while made.status in ("queued", "in_progress"):
        made = ai.videos.retrieve(made.id)
        seen.append(made.progress)
    ai.videos.download_content(made.id).write_to_file(tmp_path / "clip.mp4")
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "clip.mp4"))

    assert (made.status, made.error) == ("completed", None)
    assert seen == sorted(seen)
    assert seen[-1] == 100
    assert frames == 8
    assert seconds == pytest.approx(1, abs=0.2)
    assert ai.videos.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        ai.videos.retrieve(made.id)


def test_the_node_client_does_all_of_it(server: LiveServer) -> None:
    address = f"http://127.0.0.1:{server.port}"

    assert asyncio.run(run_program("openai_api.mjs", address, server.key, *MODELS)) == "ok"


def open_png(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    return image


def difference(one: Image.Image, other: Image.Image) -> list[tuple[int, int]]:
    """Returns the smallest and the largest difference of each channel."""
    extrema: Any = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema()
    return list(extrema)
