"""600 damaged forms of edits and videos: never a 500, never a hang, and every refusal in OpenAI's shape."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.support.http.front import front
from tests.support.http.http_front import finish_jobs
from tests.support.http.picture_doors import TAKING, picture

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

N_FORMS = 600
PARTS = [b"--b", b"--b--", b"\r\n", b"\r\n\r\n", b'name="image"', b"[]", b"[image_url]", b"=", b'"', b"\x00", b"\xff"]


def form(path: str) -> bytes:
    """Returns the body of a form that is answered with 200."""
    request = httpx.Request(
        "POST",
        "http://localhost",
        data={"prompt": "x"} | ({"n": "1", "size": "64x64"} if path.endswith("edits") else {"seconds": "2"}),
        files=[
            ("image[]", ("a.png", picture(8, 8), "image/png")), ("mask", ("b.png", picture(8, 8, hole=True))),
        ] if path.endswith("edits") else [("input_reference", ("a.png", picture(8, 8), "image/png"))],
        headers={"content-type": "multipart/form-data; boundary=b"},
    )  # fmt: skip
    return request.read()


def damaged(body: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 3)):
        start, end = sorted(rng.randrange(len(body) + 1) for _ in range(2))
        end = min(end, start + 40)
        piece = rng.choice(PARTS)
        match rng.randrange(5):
            case 0:
                body = body[:start] + body[end:]
            case 1:
                body = body[:start] + piece + body[start:]
            case 2:
                body = body[:start] + bytes(rng.randrange(256) for _ in range(end - start)) + body[end:]
            case 3:
                body = body[:end] + body[start:]
            case _:
                body = body.replace(rng.choice(PARTS), piece, 1)
    return body


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/videos"])
async def test_damaged_forms_are_answered_or_refused_in_shape(tmp_path: Path, path: str) -> None:
    rng, body = random.Random(7), form(path)
    statuses: Counter[int] = Counter()
    async with front(tmp_path, catalogue=TAKING) as f:
        finish_jobs(f)
        for sent in [body, *(damaged(body, rng) for _ in range(N_FORMS // 2))]:
            reply = await f.post(path, sent, **{"content-type": "multipart/form-data; boundary=b"})
            statuses[reply.status_code] += 1
            assert reply.status_code in (200, 400), (sent, reply.text)
            if reply.status_code == 400:
                assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
                assert len(reply.content) < 1024

    assert statuses[400] > N_FORMS / 8, statuses  # forms that show something
    assert statuses[200] > 10, statuses
