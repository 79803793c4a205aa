"""A vision-language model behind the real server: added by the command line, shown pictures over HTTP."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import transformers
from PIL import Image

from models.loading.processor import open_processor
from tests.support.http.live_server import LiveServer
from tests.support.lanes.tiny_vision import picture, write_checkpoint

pytestmark = [pytest.mark.live, pytest.mark.slow]

MODEL = "tiny-eyes"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("vision") / MODEL, "qwen2_5_vl")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[LiveServer]:
    live = LiveServer(tmp_path_factory.mktemp("pictures") / "data").start()
    environment = os.environ | {"AGENTNAME_URL": f"http://127.0.0.1:{live.port}", "AGENTNAME_API_KEY": live.key}
    command = [sys.executable, "-m", "server", "add", str(checkpoint)]
    command += ["--data-dir", str(live.data_dir)]
    added = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert added.returncode == 0, added.stderr + added.stdout
    yield live
    assert live.stop() == 0


def content(*pictures: bytes) -> list[Any]:
    parts: list[Any] = [{"type": "text", "text": "What is this?"}]
    for data in pictures:
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def generated(checkpoint: Path, *pictures: bytes) -> str:
    """What the library writes by itself."""
    processor = open_processor(checkpoint)
    model = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    parts: list[Any] = [{"type": "text", "text": "What is this?"}]
    parts += [{"type": "image", "image": Image.open(io.BytesIO(data))} for data in pictures]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    tokens = model.generate(**inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    return str(processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :]))


def test_a_vision_model_answers_about_pictures_as_the_library_does(server: LiveServer, checkpoint: Path) -> None:
    ai = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=server.key)
    pictures = [picture(40, 24), picture(24, 50, 1)]
    request: Any = {"model": MODEL, "temperature": 0, "max_tokens": 12}
    whole = ai.chat.completions.create(messages=[{"role": "user", "content": content(*pictures)}], **request)
    chunks = ai.chat.completions.create(
        messages=[{"role": "user", "content": content(*pictures)}], stream=True, **request
    )
    text = ai.chat.completions.create(messages=[{"role": "user", "content": content()}], **request)

    assert whole.choices[0].message.content == generated(checkpoint, *pictures)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert text.choices[0].message.content == generated(checkpoint)
    assert whole.usage.prompt_tokens > text.usage.prompt_tokens + 30  # pictures are a part of the prompt


def test_pictures_that_cannot_be_read_are_refused_and_the_model_goes_on(server: LiveServer) -> None:
    ai = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=server.key, max_retries=0)
    request: Any = {"model": MODEL, "temperature": 0, "max_tokens": 4}
    thin, damaged = picture(3000, 4), picture(40, 24)[:-40]
    for data, error in ((thin, "does not take these pictures"), (damaged, "that can be read")):
        with pytest.raises(openai.BadRequestError, match=error):
            ai.chat.completions.create(messages=[{"role": "user", "content": content(data)}], **request)
    messages: list[Any] = [{"role": "user", "content": content(picture(9, 9))}]
    with pytest.raises(openai.BadRequestError, match="The model smollm2-135m takes no pictures") as refused:
        ai.chat.completions.create(messages=messages, **request | {"model": "smollm2-135m"})
    reply = ai.chat.completions.create(messages=messages, **request)

    assert f"Models that do: {MODEL}" in refused.value.message
    assert reply.usage.completion_tokens == 4
