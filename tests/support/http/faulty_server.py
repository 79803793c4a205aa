"""The real server with faults that a test arms and disarms while it runs (`pipelines.fault_points`)."""

from __future__ import annotations

import contextlib
import http.client
import json
import uuid
from pathlib import Path
from typing import Any

from tests.support.http.live_server import LiveServer

LIMIT_S = 6.0  # after which something hangs
OFTEN = 99
# The supervisor waits longer after each end, up to five seconds, which a test of many ends need not do.
_CODE = """
import server.cli
from server.process.supervisor import Restarts
Restarts.FIRST_S = Restarts.LONGEST_S = 0.2
server.cli.main()
"""
QUICK_RESTARTS = ("-c", _CODE)
LOST = (OSError, http.client.HTTPException)  # a connection, with the process


class Faulty:
    """A server, and the faults that happen in it."""

    def __init__(self, folder: Path) -> None:
        self._faults = folder / "faults.json"
        self.arm()
        env = {"AGENTNAME_FAULTS": str(self._faults), "AGENTNAME_TESTING": "1"}
        env["AGENTNAME_STEP_TIMEOUT_S"] = str(LIMIT_S)
        self.live = LiveServer(folder / "data", env, program=QUICK_RESTARTS).start().wait_read()

    def arm(self, *faults: dict[str, Any]) -> None:
        self._faults.with_suffix(".fired").unlink(missing_ok=True)
        self._faults.write_text(json.dumps(faults))

    def fired(self) -> int:
        """How often the faults that are armed have happened."""
        log = self._faults.with_suffix(".fired")
        return len(log.read_text().splitlines()) if log.exists() else 0

    def image(self, prompt: str, **body: Any) -> str:
        return self.submit({"type": "image", "prompt": prompt, "steps": 4, "width": 64, "height": 64} | body)

    def submit(self, body: dict[str, Any]) -> str:
        """Submits a job, again with the same Idempotency-Key if its reply is lost with the process."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        for _ in range(OFTEN):
            with contextlib.suppress(*LOST):
                reply = self.live.post("/api/generate", body, **key)
                assert reply.status == 200, reply.body
                return str(reply.json["jobId"])
        raise AssertionError("no reply")

    def ends(self) -> list[str]:
        """How the supervisor says that the process has ended, each time."""
        lines = Path(self.live.log.name).read_text().splitlines()
        logged = [json.loads(line) for line in lines if line.startswith("{")]
        return [line["ended"] for line in logged if "starting it again" in line["msg"]]

    def usage(self) -> dict[str, int]:
        """What has been used today of each kind."""
        return {kind: int(each["used"]) for kind, each in self.live.get("/api/me").json["usage"].items()}

    def ready(self) -> None:
        """Waits until the next process serves. The supervisor keeps the socket, so that a client waits."""
        while True:
            with contextlib.suppress(*LOST):
                self.live.wait_ready()
                return

    def outlive(self, job: str) -> dict[str, Any]:
        """The end of the job, after as many restarts as it takes."""
        while True:
            try:
                return self.live.wait(job)
            except (*LOST, ValueError, KeyError):
                self.ready()
