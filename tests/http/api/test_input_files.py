"""/api/files: pictures and clips are taken, listed, sent, deleted and forgotten, and belong to their key."""

from __future__ import annotations

import asyncio
import hashlib
import io
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from server.accounts.quotas import DEFAULT_PLANS
from tests.support.http.front import front
from tests.support.http.input_files import JPEG, PNG, files_on_disk, left_unfinished, upload, uploaded
from tests.support.odd_files.case import encoded, sample

pytestmark = pytest.mark.anyio


async def test_a_file_is_described_as_it_was_sent(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        reply = await upload(f, JPEG, content_type="video/mp4")

    body = reply.json()
    assert body.pop("fileId").startswith("file_")
    assert body == {
        "mimeType": "image/jpeg",
        "width": 64,
        "height": 48,
        "durationSeconds": None,
        "bytes": len(JPEG),
        "sha256": hashlib.sha256(JPEG).hexdigest(),
        "expiresAt": "2026-11-25T09:00:00.000Z",
    }


async def test_a_form_with_one_file_is_the_same_as_the_bytes(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        as_form = await f.client.post("/api/files", files={"file": ("cat.exe", PNG)}, headers=f.auth("free"))
        as_bytes = await upload(f, PNG, "free")

    assert as_form.json() == as_bytes.json()


@pytest.mark.parametrize(
    "form",
    [
        {"files": [("file", ("a.png", PNG)), ("file", ("b.png", PNG))]},
        {"files": {"file": ("a.png", PNG)}, "data": {"purpose": "vision"}},
        {"files": {"file": (None, "text")}},
    ],
)
async def test_a_form_of_anything_else_than_one_file_is_refused(tmp_path: Path, form: dict[str, Any]) -> None:
    async with front(tmp_path) as f:
        reply = await f.client.post("/api/files", headers=f.auth("free"), **form)

    assert (reply.status_code, reply.json()["error"]) == (400, "The form must have one file and nothing else.")


async def test_what_is_no_picture_and_no_clip_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        unknown, damaged = await upload(f, b"<svg/>"), await upload(f, PNG[:60])
        text = (await f.get("/api/files")).json()

        assert (unknown.status_code, damaged.status_code) == (400, 400)
        assert "file must be a PNG, JPEG or WebP picture" in unknown.text
        assert "is not damaged" in damaged.text
        assert text == {"files": [], "nextCursor": None, "usedBytes": 0, "limitBytes": None}
        assert files_on_disk(f) == left_unfinished(f) == []


async def test_a_file_may_have_32_mib_and_no_more(tmp_path: Path) -> None:
    zeros = bytes(32 * 2**20 - len(PNG))
    async with front(tmp_path) as f:
        largest = await upload(f, PNG + zeros)
        larger = await upload(f, PNG + zeros + b"\0")
        much_larger = await upload(f, bytes(40 * 2**20))

    assert (largest.status_code, larger.status_code, much_larger.status_code) == (200, 413, 413)
    assert larger.json()["error"] == "file may have at most 32 MiB."
    assert "33 MiB, the limit of this address" in much_larger.text


async def test_a_file_is_sent_as_it_is_kept_whole_or_in_part(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        sent = (await upload(f, JPEG)).json()
        path = f"/api/files/{sent['fileId']}"
        whole, part = await f.get(path), await f.get(path, range="bytes=1-3")
        cached = await f.get(path, **{"if-none-match": f'"{sent["sha256"]}"'})
        head = await f.client.head(path, headers=f.auth("enterprise"))

    assert Image.open(io.BytesIO(whole.content)).size == (64, 48)
    assert (whole.headers["content-type"], whole.headers["etag"]) == ("image/png", f'"{sent["sha256"]}"')
    assert whole.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["cache-control"] == "private, no-store"
    assert whole.headers["content-disposition"] == f'inline; filename="{sent["fileId"]}.png"'
    assert (part.status_code, part.content) == (206, b"PNG")
    assert (cached.status_code, cached.content) == (304, b"")
    assert head.headers["content-length"] == str(len(whole.content))


async def test_foreign_unknown_deleted_and_expired_files_get_one_and_the_same_answer(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        mine = await uploaded(f, PNG)
        deleted = await uploaded(f, JPEG)
        await f.delete(f"/api/files/{deleted}")
        ids = {"other": mine, "enterprise": deleted, "free": "file_" + "0" * 22, "pro": "file_.."}
        reads = [await f.get(f"/api/files/{file_id}", key) for key, file_id in ids.items()]
        deletes = [await f.delete(f"/api/files/{file_id}", key) for key, file_id in ids.items()]
        without_key = await f.client.get(f"/api/files/{mine}?expires=99999999999&signature={'A' * 24}")
        f.clock.forward(hours=24, seconds=1)
        reads.append(await f.get(f"/api/files/{mine}"))
        deletes.append(await f.delete(f"/api/files/{mine}"))

    assert {(reply.status_code, reply.text) for reply in (*reads, *deletes)} == {
        (404, '{"error":"There is no such file.","code":404}')
    }
    assert without_key.status_code == 401


async def test_files_are_listed_newest_first_page_by_page(tmp_path: Path) -> None:
    pictures = [encoded(sample(size=(8, 8 + n)), "PNG") for n in range(5)]
    async with front(tmp_path) as f:
        ids = [await uploaded(f, data, "free") for data in pictures]
        await uploaded(f, PNG, "other")
        first = (await f.get("/api/files?limit=3", "free")).json()
        second = (await f.get(f"/api/files?limit=3&cursor={first['nextCursor']}", "free")).json()
        wrong = await f.get("/api/files?limit=3&cursor=x", "free")
        unknown = await f.get("/api/files?order=asc", "free")
        kept = sum(path.stat().st_size for path in (f.data_dir / "inputs").glob("*.png"))
        foreign = (await f.get("/api/files", "other")).json()

    assert [file["fileId"] for file in (*first["files"], *second["files"])] == ids[::-1]
    assert second["nextCursor"] is None
    assert first["usedBytes"] + foreign["usedBytes"] == kept
    assert first["limitBytes"] == 256 * 2**20
    assert (wrong.status_code, unknown.status_code) == (400, 400)


async def test_the_same_file_twice_is_one_file_that_expires_later(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        first = (await upload(f, JPEG)).json()
        f.clock.forward(hours=1)
        second = (await upload(f, JPEG)).json()
        of_others = (await upload(f, JPEG, "other")).json()
        listed = (await f.get("/api/files")).json()["files"]

        assert second == first | {"expiresAt": "2026-11-25T10:00:00.000Z"}
        assert of_others["fileId"] != first["fileId"]
        assert listed == [second]
        assert len(files_on_disk(f)) == 2


async def test_the_same_file_sent_many_times_at_once_is_kept_once(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        replies = await asyncio.gather(*(upload(f, JPEG) for _ in range(8)))

        assert {reply.json()["fileId"] for reply in replies} == {replies[0].json()["fileId"]}
        assert len(files_on_disk(f)) == 1
        assert left_unfinished(f) == []


async def test_many_files_of_one_key_at_once_wait_in_a_line_of_bounded_length(tmp_path: Path) -> None:
    pictures = [encoded(sample(size=(8, 8 + n)), "PNG") for n in range(20)]
    async with front(tmp_path) as f:
        replies = await asyncio.gather(*(upload(f, data) for data in pictures), upload(f, PNG, "other"))
        later = await upload(f, pictures[-1])

    statuses = [reply.status_code for reply in replies]
    assert sorted(statuses[:20]) == [200] * 16 + [429] * 4
    assert "16 files of this key wait to be decoded" in next(each.text for each in replies if each.status_code == 429)
    assert statuses[20] == later.status_code == 200


def with_space(n_bytes: int) -> dict[str, Any]:
    return {"plans": DEFAULT_PLANS | {"free": replace(DEFAULT_PLANS["free"], file_space=n_bytes)}}


async def test_a_full_space_is_told_with_figures_until_a_file_is_deleted(tmp_path: Path) -> None:
    first, second = encoded(noise(0), "PNG"), encoded(noise(1), "PNG")
    async with front(tmp_path, **with_space(20_000)) as f:
        file_id = await uploaded(f, first, "free")
        again = await upload(f, first, "free")
        full = await upload(f, second, "free")
        used = (await f.get("/api/files", "free")).json()["usedBytes"]
        kept = len(files_on_disk(f))
        await f.delete(f"/api/files/{file_id}", "free")
        after = await upload(f, second, "free")

    assert (again.status_code, full.status_code, after.status_code) == (200, 429, 200)
    assert f"take {used / 1024:.1f} KiB of the 19.5 KiB that its plan allows" in full.json()["error"]
    assert "retry-after" in full.headers
    assert kept == 1


async def test_a_file_larger_than_the_whole_space_is_too_large(tmp_path: Path) -> None:
    async with front(tmp_path, **with_space(1024)) as f:
        reply = await upload(f, encoded(noise(0), "PNG"), "free")

        assert reply.status_code == 413
        assert "as the server keeps it" in reply.json()["error"]
        assert files_on_disk(f) == []


def noise(seed: int) -> Image.Image:
    """A picture of about 12 KiB as PNG."""
    return Image.effect_noise((110 + seed, 110), 90)


async def test_uploads_count_among_the_requests_of_a_minute(tmp_path: Path) -> None:
    plans = DEFAULT_PLANS | {"free": replace(DEFAULT_PLANS["free"], burst_per_minute=2)}
    async with front(tmp_path, plans=plans) as f:
        replies = [await upload(f, PNG, "free") for _ in range(3)]

    assert [reply.status_code for reply in replies] == [200, 200, 429]


async def test_expired_files_leave_the_disk(tmp_path: Path) -> None:
    async with front(tmp_path, file_retention=timedelta(hours=2)) as f:
        await uploaded(f, PNG)
        f.clock.forward(hours=1)
        await uploaded(f, JPEG)
        f.clock.forward(hours=1, seconds=1)
        await f.service.recovery.tidy()
        listed = (await f.get("/api/files")).json()

        assert [file["mimeType"] for file in listed["files"]] == ["image/jpeg"]
        assert len(files_on_disk(f)) == 1


async def test_a_start_removes_files_that_nobody_knows_and_keeps_the_others(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        file_id = await uploaded(f, PNG)
        keys = f.keys
        (f.data_dir / "inputs" / "unknown.png").write_bytes(PNG)
        (f.data_dir / "inputs" / "unfinished" / "half.sent").write_bytes(PNG)
    async with front(tmp_path, keys=keys) as f:
        await f.service.recovery.recover()

        assert left_unfinished(f) == []
        assert files_on_disk(f) == [f"{file_id.removeprefix('file_')}.png"]
        assert (await f.get(f"/api/files/{file_id}")).status_code == 200


async def test_a_file_that_someone_removed_from_the_disk_can_be_sent_again(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        lost = await uploaded(f, PNG)
        for path in (f.data_dir / "inputs").glob("*.png"):
            path.unlink()
        read = await f.get(f"/api/files/{lost}")
        found = await uploaded(f, PNG)

        assert read.status_code == 404
        assert (await f.get(f"/api/files/{found}")).status_code == 200


async def test_files_are_closed_to_other_users(tmp_path: Path) -> None:
    async with front(tmp_path) as f:
        await uploaded(f, PNG)
        folder = f.data_dir / "inputs"

        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in folder.glob("*.png")} == {0o600}


async def test_a_full_disk_is_a_502_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with front(tmp_path) as f:
        with monkeypatch.context() as patch:
            patch.setattr("server.jobs.inputs.folder.InputFolder.finish", full)
            reply = await upload(f, PNG)

        assert reply.status_code == 502
        assert files_on_disk(f) == left_unfinished(f) == []
        assert (await upload(f, PNG)).status_code == 200
