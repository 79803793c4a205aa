"""GET /api/files: an output's bytes, for its owner and by signed link, until it expires."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.http.front import VIDEO, Front, front

pytestmark = pytest.mark.anyio


async def output_of(f: Front, **body: Any) -> tuple[str, dict[str, Any]]:
    """Completes a job and returns the path of its output without the signature, and the output in the status."""
    (output,) = (await f.complete(**body))["outputs"]
    return output["url"].partition("?")[0], output


async def test_a_file_opens_with_the_owners_key_and_with_its_link(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        path, output = await output_of(f)
        by_owner, by_link = await f.get(path), await f.client.get(output["url"])
        head = await f.client.head(output["url"])
        by_link_with_other_key = await f.get(output["url"], "other")

    assert by_owner.status_code == by_link.status_code == by_link_with_other_key.status_code == 200
    assert hashlib.sha256(by_link.content).hexdigest() == output["sha256"]
    assert len(by_link.content) == output["bytes"]
    assert Image.open(io.BytesIO(by_owner.content)).size == (64, 64)
    assert head.headers["content-length"] == str(output["bytes"])
    headers = by_link.headers
    assert headers["content-type"] == "image/png"
    assert headers["etag"] == f'"{output["sha256"]}"'
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["cache-control"] == "private, no-store"
    assert headers["content-disposition"].startswith('inline; filename="job_')


async def test_a_video_can_be_read_in_ranges(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        path, output = await output_of(f, **VIDEO)
        part = await f.get(path, range="bytes=4-7")
        too_far = await f.get(path, range=f"bytes={output['bytes']}-")
        malformed = await f.get(path, range="bytes=b-a")
        cached = await f.get(path, **{"if-none-match": f'"{output["sha256"]}"'})

    assert (part.status_code, part.content) == (206, b"ftyp")
    assert part.headers["content-range"] == f"bytes 4-7/{output['bytes']}"
    assert (too_far.status_code, too_far.json()["code"]) == (416, 416)
    assert too_far.headers["content-range"] == f"bytes */{output['bytes']}"
    assert (malformed.status_code, malformed.json()["code"]) == (400, 400)
    assert (cached.status_code, cached.content) == (304, b"")
    assert (output["mimeType"], output["durationSeconds"]) == ("video/mp4", 2.25)


async def test_a_foreign_key_gets_404_and_an_invalid_link_401(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        path, output = await output_of(f)
        foreign = await f.get(path, "other")
        unknown = await f.get("/api/files/" + "0" * 22, "other")
        query = output["url"].partition("?")[2]
        invalid = [
            await f.client.get(f"{path}?{query[:-1]}"),
            await f.client.get(f"{path}?{query}&signature=x"),
            await f.client.get(f"{path}?expires=99999999999&signature=" + "A" * 24),
            await f.client.get(f"/api/files/{'0' * 22}?{query}"),
            await f.client.get(path),
        ]
        f.clock.forward(hours=25)
        expired = await f.client.get(output["url"])

    assert (foreign.status_code, foreign.content) == (404, unknown.content)
    assert {reply.status_code for reply in [*invalid, expired]} == {401}


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../agentname.db",
        "%2e%2e%2fstore.db",
        "%252e%252e%252f",
        "..%5cstore.db",
        "C:store.db",
        "a%00b",
        "x" * 22 + ".png",
    ],
)
async def test_a_path_instead_of_an_output_id_is_a_404(tmp_path: Path, name: str) -> None:
    async with front(tmp_path) as f:
        reply = await f.get(f"/api/files/{name}")

    assert reply.status_code == 404


async def test_expired_outputs_are_deleted_and_the_job_stays(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        done = await f.complete()
        f.clock.forward(hours=24, seconds=1)
        await f.service.recovery.tidy()
        status = await f.status(done["jobId"])

        assert not list((f.data_dir / "outputs").iterdir())
    assert (status["status"], status["outputs"]) == ("completed", [])
    assert status["expiresAt"] == done["expiresAt"]
