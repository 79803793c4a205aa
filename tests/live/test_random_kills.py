"""Random SIGKILLs of server and supervisor under a mixed load do no harm. `benchmarks/kills.py` does more of them."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from benchmarks.kills import kill_again_and_again
from benchmarks.mixed_load import wait_ready
from tests.support.http.live_server import LiveServer

pytestmark = [pytest.mark.live, pytest.mark.slow]


def test_five_random_kills_lose_nothing_double_nothing_and_leave_no_file(tmp_path: Path) -> None:
    harm = kill_again_and_again(tmp_path, kills=5, seed=11, clients=3, between_s=(0.5, 4.0))

    assert not harm.any, harm
    assert harm.kills["server"] == 4
    assert harm.kills["supervisor"] == 1
    assert harm.accepted == harm.ends["completed"] > 0


def test_a_request_whose_reply_a_kill_took_away_is_one_job_when_it_is_sent_again(tmp_path: Path) -> None:
    """F2: the process ends after the job is stored and before the client is told."""
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps([{"at": "accepted", "do": "kill"}]))
    live = LiveServer(tmp_path / "data", {"AGENTNAME_FAULTS": str(faults), "AGENTNAME_TESTING": "1"}).start()
    body = {"type": "image", "prompt": "a red house", "steps": 2, "width": 64, "height": 64}
    with pytest.raises((OSError, http.client.HTTPException)):
        live.post("/api/generate", body, **{"Idempotency-Key": "once"})
    wait_ready(live)

    again = live.post("/api/generate", body, **{"Idempotency-Key": "once"})

    assert again.status == 200
    assert live.wait(again.json["jobId"])["status"] == "completed"
    assert [job["jobId"] for job in live.get("/api/jobs").json["jobs"]] == [again.json["jobId"]]
    assert live.get("/api/me").json["usage"]["images"]["used"] == 1
    assert live.stop() == 0
