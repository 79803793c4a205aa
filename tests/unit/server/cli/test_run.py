"""`run` against a real server with a fake engine: files, output, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from server.client import AgentName
from server.job import Job
from tests.support.http.command_line import run, use_server
from tests.support.http.served import Served, served
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("use_server_and_folder")


def test_each_image_is_saved_under_a_new_name(server: Served) -> None:
    first = run("run", "A futuristic city at night!", "--seed", "6")
    again = run("run", "A futuristic city at night!", "--seed", "6")

    assert (first.exit_code, first.stdout) == (0, "a-futuristic-city-at-night-6.png\n")
    assert again.stdout == "a-futuristic-city-at-night-6-2.png\n"
    assert first.stderr == "64x64, seed 6, painter\n"
    assert Path(first.stdout.strip()).read_bytes().startswith(b"\x89PNG")


def test_the_suffix_of_the_file_selects_the_format(server: Served) -> None:
    assert run("run", "A lake", "-o", "lake.webp").exit_code == 0
    with Image.open("lake.webp") as image:
        assert image.format == "WEBP"


def test_several_images_are_numbered(server: Served) -> None:
    result = run("run", "A lake", "-n", "2", "-o", "lake.png")

    assert result.stdout == "lake-1.png\nlake-2.png\n"


def test_a_video_is_generated_with_its_options(server: Served) -> None:
    result = run("run", "Waves", "--video", "--aspect", "16:9", "--duration", "2", "--steps", "3", "-o", "waves.gif")

    assert (result.exit_code, result.stdout) == (0, "waves.gif\n")
    assert Path("waves.gif").read_bytes().startswith(b"GIF8")


def test_json_output_is_the_status_and_the_names_of_the_files(server: Served) -> None:
    result = run("run", "A lake", "--json", "--negative", "people", "-o", "lake.png")
    status = json.loads(result.stdout)

    assert (status["status"], status["files"]) == ("completed", ["lake.png"])
    assert status["params"]["negativePrompt"] == "people"


def test_the_prompt_is_read_from_stdin_and_the_image_is_written_to_stdout(server: Served) -> None:
    result = run("run", "-", "-o", "-", stdin="A lake")

    assert result.exit_code == 0
    assert result.stdout_bytes.startswith(b"\x89PNG")
    assert list(Path().iterdir()) == []


def test_no_wait_prints_the_id_of_the_job(server: Served) -> None:
    job_id = run("run", "A lake", "--no-wait").stdout.strip()
    accepted = json.loads(run("run", "A lake", "--no-wait", "--json").stdout)

    assert job_id.startswith("job_")
    assert accepted["statusUrl"] == f"/api/status/{accepted['jobId']}"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["A lake", "-o", "lake.mp4"], 2, "must end in one of .png, .webp, .jpg, .jpeg"),
        (["A lake", "-o", "nowhere/lake.png"], 2, "no folder nowhere"),
        (["A lake", "-o", "lake.png", "--no-wait"], 2, "leave -o out"),
        (["A lake", "-o", "-", "--json"], 2, "excludes --json"),
        (["A lake", "--steps", "0"], 2, "steps must be"),
        (["A lake", "--duration", "3"], 2, "duration does not belong"),
        (["A lake", "--model", "nobody"], 2, "nobody"),
        (["A lake", "--stpes", "3"], 2, "No such option"),
    ],
)
def test_invalid_options_are_explained_and_exit_with_2(
    server: Served, arguments: list[str], code: int, message: str
) -> None:
    result = run("run", *arguments)

    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_an_unknown_key_exits_with_4_and_a_used_up_plan_with_5(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTNAME_API_KEY", "an_nobody")
    unknown = run("run", "A lake")
    monkeypatch.setenv("AGENTNAME_API_KEY", server.f.keys["free"])
    codes = [run("run", "Waves", "--video", "--no-wait").exit_code for _ in range(3)]

    assert (unknown.exit_code, unknown.stderr) == (4, "The server does not know the key in AGENTNAME_API_KEY.\n")
    assert codes == [0, 0, 5]


def test_a_failed_job_exits_with_1_and_prints_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path / "store") as server:
        use_server(monkeypatch, server)
        submit = server.f.engine.submit

        def submit_and_fail(job: Job, need_bytes: int = 0, at: float | None = None) -> None:
            submit(job, need_bytes, at)
            server.soon(server.f.engine.start_job, job.id)
            server.soon(server.f.engine.fail, job.id)

        server.f.engine.submit = submit_and_fail  # type: ignore[method-assign]  # wraps the method
        result = run("run", "A lake", "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == "failed"
    assert "failed: The model failed." in result.stderr


def test_ctrl_c_cancels_the_job(tmp_path: Path) -> None:
    with served(tmp_path / "store") as server:
        env = os.environ | {"AGENTNAME_URL": server.url, "AGENTNAME_API_KEY": server.f.keys["enterprise"]}
        running = subprocess.Popen(
            [sys.executable, "-m", "server", "run", "A lake"],
            cwd=ROOT,
            env=env | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job of a shell ignores it
        )
        with AgentName(server.url, server.f.keys["enterprise"]) as client:
            is_waiting = threading.Event()
            jobs_of_key = server.f.service.jobs
            status = jobs_of_key.status

            async def status_and_signal(*arguments: object) -> object:
                is_waiting.set()  # the command has submitted its job and waits for it
                return await status(*arguments)  # type: ignore[arg-type]  # passed on

            jobs_of_key.status = status_and_signal  # type: ignore[method-assign,assignment]  # wraps the method
            assert is_waiting.wait(30)
            running.send_signal(signal.SIGINT)
            _, stderr = running.communicate(timeout=30)
            jobs = client.jobs().jobs

    assert running.returncode == 130
    assert stderr.endswith(f"Canceled {jobs[0].job_id}.\n")
    assert [job.status for job in jobs] == ["canceled"]


def test_no_show_prints_only_the_name_of_the_file(server: Served, tmp_path: Path) -> None:
    result = run("run", "A lake", "-o", str(tmp_path / "lake.png"), "--no-show")

    assert result.stdout == f"{tmp_path / 'lake.png'}\n"
