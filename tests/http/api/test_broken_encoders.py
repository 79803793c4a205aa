"""A clip that ffmpeg does not encode: its job fails with a reason and is refunded, and nothing of it is left."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipelines.child_process import start
from server.jobs import encoding
from tests.support.audit import audit_folder
from tests.support.http.front import VIDEO, front

pytestmark = pytest.mark.anyio

NOT_WRITTEN = {
    "code": "output_not_saved",
    "message": "The result could not be written to disk.",
    "retryable": True,
}
PROGRAMS = {
    "missing": None,
    "cannot be started": "no program",
    "ends with 1 at once": "#!/bin/sh\nexit 1\n",
    "ends with 1 after half a file": '#!/bin/sh\nfor last; do :; done\nhead -c 1000 >"$last"\nexit 1\n',
    "is killed": "#!/bin/sh\nkill -9 $$\n",
    "hangs": "#!/bin/sh\nexec sleep 600\n",
    "hangs with a child": "#!/bin/sh\nsleep 600 &\nwait\n",
    "reads all and hangs": '#!/bin/sh\nfor last; do :; done\ncat >"$last"\nexec sleep 600\n',
    "closes its input and hangs": "#!/bin/sh\nexec 0<&-\nexec sleep 600\n",
    "writes nothing and ends well": "#!/bin/sh\ncat >/dev/null\nexit 0\n",
}


def running_in_group(pid: int) -> list[str]:
    """What of a process group still runs. Orphans may be zombies, of whoever inherits them here."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            name, _, fields = stat.read_text().rpartition(")")
            state, _, group, *_ = fields.split()
            if int(group) == pid and state not in "ZX":
                found.append(name)
    return found


@pytest.mark.parametrize("output_format", ["mp4", "gif"])
@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_clip_that_is_not_encoded_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, output_format: str
) -> None:
    path = tmp_path / "ffmpeg"
    if (text := PROGRAMS[program]) is not None:
        path.write_text(text)
        path.chmod(0o700)
    started: list[subprocess.Popen[bytes]] = []

    def recorded(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args, **kwargs))
        return started[-1]

    async with front(tmp_path / "front") as f:
        with monkeypatch.context() as broken:
            broken.setattr(encoding.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(path))
            broken.setattr(encoding, "FFMPEG_TIMEOUT_S", 0.2)
            broken.setattr(encoding, "start", recorded)
            job_id = await f.submit("free", **VIDEO, num_frames=9, output_format=output_format)
            assert await f.used("videos") == 1
            f.engine.run(job_id)
            await f.settle()
        failed = await f.status(job_id, "free")

        assert (failed["status"], failed["error"], failed["outputs"]) == ("failed", NOT_WRITTEN, [])
        assert await f.used("videos") == 0
        left = {path.name for folder in ("outputs", "unfinished") for path in (f.data_dir / folder).iterdir()}
        assert not left
        for process in started:
            assert process.returncode is not None, "it was waited for"
            assert not running_in_group(process.pid)

        done = await f.complete("free", **VIDEO, num_frames=9, output_format=output_format)
        assert done["status"] == "completed"
    (tmp_path / "front/data/agentname.db").symlink_to(tmp_path / "front/store.db")
    assert audit_folder(tmp_path / "front/data") == []
