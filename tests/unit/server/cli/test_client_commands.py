"""`run` and `chat` as a person and as a script meet them, on a small real server with a fake engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from server import client
from server.cli import app, terminal
from server.cli.pictures import encoded, half_blocks
from server.client import AgentName, ChatDelta, Job
from tests.support.paths import ROOT
from tests.support.served import Served, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as server:
        server.run_every_job()
        yield server


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for name in list(os.environ):
        if name.upper().startswith("AGENTNAME_"):
            monkeypatch.delenv(name)
    if "server" in request.fixturenames:
        server: Served = request.getfixturevalue("server")
        monkeypatch.setenv("AGENTNAME_URL", server.url)
        monkeypatch.setenv("AGENTNAME_API_KEY", server.f.keys["enterprise"])
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def test_a_picture_is_saved_under_a_new_name_each_time(server: Served) -> None:
    first = run("run", "A futuristic city at night!", "--seed", "6")
    again = run("run", "A futuristic city at night!", "--seed", "6")

    assert (first.exit_code, first.stdout) == (0, "a-futuristic-city-at-night-6.png\n")
    assert again.stdout == "a-futuristic-city-at-night-6-2.png\n"
    assert first.stderr == "64x64, seed 6, painter\n"
    assert Path(first.stdout.strip()).read_bytes().startswith(b"\x89PNG")


def test_the_ending_of_the_file_says_the_format(server: Served) -> None:
    assert run("run", "A lake", "-o", "lake.webp").exit_code == 0
    with Image.open("lake.webp") as image:
        assert image.format == "WEBP"


def test_several_pictures_are_numbered(server: Served) -> None:
    made = run("run", "A lake", "-n", "2", "-o", "lake.png")

    assert made.stdout == "lake-1.png\nlake-2.png\n"


def test_a_clip_with_every_option_of_a_clip(server: Served) -> None:
    made = run("run", "Waves", "--video", "--aspect", "16:9", "--duration", "2", "--steps", "3", "-o", "waves.gif")

    assert (made.exit_code, made.stdout) == (0, "waves.gif\n")
    assert Path("waves.gif").read_bytes().startswith(b"GIF8")


def test_json_is_the_status_and_where_the_files_are(server: Served) -> None:
    made = run("run", "A lake", "--json", "--negative", "people", "-o", "lake.png")
    status = json.loads(made.stdout)

    assert (status["status"], status["files"]) == ("completed", ["lake.png"])
    assert status["params"]["negativePrompt"] == "people"


def test_the_prompt_comes_from_standard_input_and_the_picture_goes_to_standard_output(server: Served) -> None:
    made = run("run", "-", "-o", "-", stdin="A lake")

    assert made.exit_code == 0
    assert made.stdout_bytes.startswith(b"\x89PNG")
    assert list(Path().iterdir()) == []


def test_without_waiting_the_id_is_printed(server: Served) -> None:
    job_id = run("run", "A lake", "--no-wait").stdout.strip()
    accepted = json.loads(run("run", "A lake", "--no-wait", "--json").stdout)

    assert job_id.startswith("job_")
    assert accepted["statusUrl"] == f"/api/status/{accepted['jobId']}"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["A lake", "-o", "lake.mp4"], 2, "must end in one of .png, .webp, .jpg, .jpeg"),
        (["A lake", "-o", "nowhere/lake.png"], 2, "no folder nowhere"),
        (["A lake", "-o", "lake.png", "--no-wait"], 2, "leave -o away"),
        (["A lake", "-o", "-", "--json"], 2, "carries one thing"),
        (["A lake", "--steps", "0"], 2, "steps must be"),
        (["A lake", "--duration", "3"], 2, "duration does not belong"),
        (["A lake", "--model", "nobody"], 2, "nobody"),
        (["A lake", "--stpes", "3"], 2, "No such option"),
    ],
)
def test_what_cannot_be_is_said_and_exits_with_2(server: Served, arguments: list[str], code: int, said: str) -> None:
    ended = run("run", *arguments)

    assert (ended.exit_code, ended.stdout) == (code, "")
    assert said in ended.stderr


def test_a_key_that_is_unknown_or_used_up_exits_with_4_and_5(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTNAME_API_KEY", "an_nobody")
    unknown = run("run", "A lake")
    monkeypatch.setenv("AGENTNAME_API_KEY", server.f.keys["free"])
    ends = [run("run", "Waves", "--video", "--no-wait").exit_code for _ in range(3)]

    assert (unknown.exit_code, unknown.stderr) == (4, "The server does not know the key in AGENTNAME_API_KEY.\n")
    assert ends == [0, 0, 5]


def test_a_job_that_fails_exits_with_1_and_still_prints_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(tmp_path / "store") as server:
        monkeypatch.setenv("AGENTNAME_URL", server.url)
        monkeypatch.setenv("AGENTNAME_API_KEY", server.f.keys["enterprise"])
        submit = server.f.engine.submit

        def submit_and_fail(job: object, need_bytes: int = 0) -> None:
            submit(job, need_bytes)  # type: ignore[arg-type]  # handed on
            server.soon(server.f.engine.start, job.id)  # type: ignore[attr-defined]  # a job
            server.soon(server.f.engine.fail, job.id)  # type: ignore[attr-defined]  # a job

        server.f.engine.submit = submit_and_fail  # type: ignore[method-assign,assignment]  # fails instead
        ended = run("run", "A lake", "--json")

    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["status"] == "failed"
    assert "failed: The model failed." in ended.stderr


def test_ctrl_c_cancels_the_job(tmp_path: Path) -> None:
    with served(tmp_path / "store") as server:
        env = os.environ | {"AGENTNAME_URL": server.url, "AGENTNAME_API_KEY": server.f.keys["enterprise"]}
        running = subprocess.Popen(
            [sys.executable, "-m", "server", "run", "A lake"],
            cwd=ROOT,
            env=env | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )
        with AgentName(server.url, server.f.keys["enterprise"]) as talker:
            asked_status = threading.Event()
            status = server.f.service.status

            async def told(*arguments: object) -> object:
                asked_status.set()  # it waits now
                return await status(*arguments)  # type: ignore[arg-type]  # handed on

            server.f.service.status = told  # type: ignore[method-assign,assignment]  # one more thing it does
            assert asked_status.wait(30)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=30)
            jobs = talker.jobs().jobs

    assert running.returncode == 130
    assert said.endswith(f"Canceled {jobs[0].job_id}.\n")
    assert [job.status for job in jobs] == ["canceled"]


def test_no_show_leaves_the_picture_away_and_tells_the_file(server: Served, tmp_path: Path) -> None:
    told = run("run", "A lake", "-o", str(tmp_path / "lake.png"), "--no-show")

    assert told.stdout == f"{tmp_path / 'lake.png'}\n"


def test_chat_prints_the_reply_of_an_argument_and_of_standard_input(server: Served) -> None:
    assert run("chat", "Hello").stdout == "You said: Hello\n"
    assert run("chat", stdin="Hello\nthere").stdout == "You said: Hello\nthere\n"
    reply = json.loads(run("chat", "Hello", "--json", "--system", "Be short.", "--model", "talker").stdout)
    assert (reply["reply"], reply["model"], reply["usage"]["completionTokens"]) == ("You said: Hello", "talker", 5)
    assert reply["timestamp"] == "2026-11-24T09:00:00.000Z"  # as the server says it


def test_a_conversation_goes_on_until_it_is_left(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["One", "", "/help", "Two", "/new", "Three", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))
    monkeypatch.setattr("server.cli.chat.sys", FakeSys())
    before = len(server.f.engine.jobs)
    ended = run("chat")

    assert ended.exit_code == 0
    assert ended.stdout == "You said: One\nYou said: Two\nYou said: Three\n"
    turns = [len(job.requests[0].messages) for job in list(server.f.engine.jobs.values())[before:]]  # type: ignore[union-attr]  # chats
    assert turns == [1, 3, 1]


def test_conversations_are_listed_gone_on_with_named_and_forgotten(server: Served) -> None:
    begun = json.loads(run("chat", "I am Ann.", "--json").stdout)["conversationId"]
    assert run("chat", "Who am I?", "--conversation", begun).exit_code == 0
    assert run("conversations", "rename", begun, "Ann's").stdout == "Ann's\n"
    listed = run("conversations", "list").stdout
    assert begun in listed
    assert "Ann's" in listed
    assert (
        json.loads(run("conversations", "list", "--limit", "1", "--json").stdout)["conversations"][0]["title"]
        == "Ann's"
    )
    assert run("conversations", "show", begun).stdout == (
        ">>> I am Ann.\nYou said: I am Ann.\n>>> Who am I?\nYou said: Who am I?\n"
    )
    assert len(json.loads(run("conversations", "show", begun, "--json").stdout)["messages"]) == 4
    assert run("conversations", "forget", begun).exit_code == 0
    assert run("conversations", "show", begun).exit_code == 2


class FakeSys:
    """Where a person types."""

    class stdin:
        @staticmethod
        def isatty() -> bool:
            return True

    class stdout:
        @staticmethod
        def flush() -> None:
            pass


def test_leaving_a_stream_stops_the_model(tmp_path: Path) -> None:
    with served(tmp_path / "store") as server, AgentName(server.url, server.f.keys["enterprise"]) as talker:
        engine = server.f.engine
        engine.reply = None
        submit = engine.submit

        def submit_and_begin(job: object, need_bytes: int = 0) -> None:
            submit(job, need_bytes)  # type: ignore[arg-type]  # handed on
            server.soon(engine.start, job.id)  # type: ignore[attr-defined]  # a job
            server.soon(engine.say, job.id, "I ")  # type: ignore[attr-defined]  # a job

        engine.submit = submit_and_begin  # type: ignore[method-assign,assignment]  # begins at once
        canceled = threading.Event()
        engine.cancel = lambda job_id: canceled.set()  # type: ignore[method-assign]  # only heard
        pieces = talker.stream_chat("Hello")
        first = next(pieces)
        pieces.close()

        assert first == ChatDelta(text="I ")  # it came while the reply was still being made
        assert canceled.wait(30)


def test_a_job_is_watched_by_its_events(tmp_path: Path) -> None:
    with served(tmp_path / "store") as server, AgentName(server.url, server.f.keys["enterprise"]) as talker:
        job_id = talker.generate("A lake").job_id
        watching = talker.watch(job_id)
        seen = [next(watching)]
        server.soon(server.f.engine.start, job_id)
        server.soon(server.f.engine.progress, job_id, "denoising", 2)
        while seen[-1].step != 2:
            seen.append(next(watching))
        server.soon(server.f.engine.render, job_id)
        seen += watching

    assert [job.status for job in (seen[0], seen[-1])] == ["queued", "completed"]
    assert seen[-1].outputs[0].mime_type == "image/png"
    assert all(isinstance(job, Job) for job in seen)


@pytest.mark.parametrize(
    ("answers", "understood"),
    [
        (b"\x1b_Gi=31;OK\x1b\\\x1bP>|kitty(0.42)\x1b\\\x1b[?62;c", "kitty"),
        (b"\x1b_Gi=31;EINVAL:no\x1b\\\x1b[?62;c", None),
        (b"\x1bP>|iTerm2 3.5.0\x1b\\\x1b[?65;1;9c", "iterm"),
        (b"\x1bP>|tmux 3.4\x1b\\\x1b[?1;2;4c", "sixel"),
        (b"\x1b[?4c", None),
        (b"\x1b[?64;14;40c", None),
        (b"", None),
    ],
)
def test_a_terminal_is_believed_what_it_answers(answers: bytes, understood: str | None) -> None:
    assert terminal.understand(answers) == understood


def test_a_terminal_is_asked_and_left_as_it_was() -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    asked = []

    def answer() -> None:
        asked.append(os.read(ours, 1000))
        os.write(ours, b"\x1b[?62;4c")

    answering = threading.Thread(target=answer)
    answering.start()
    answered = terminal.ask(theirs, theirs)
    answering.join()
    after = termios.tcgetattr(theirs)
    os.close(ours)
    os.close(theirs)

    assert answered == b"\x1b[?62;4c"
    assert asked == [terminal.KITTY + terminal.VERSION + terminal.ATTRIBUTES]
    assert after == before


def checked() -> Image.Image:
    image = Image.new("RGB", (16, 12), (255, 0, 0))
    image.paste((0, 0, 255), (8, 0, 16, 12))
    return image


def test_pictures_are_written_as_each_protocol_wants_them() -> None:
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    chunks = encoded("kitty", image, 8).split("\x1b\\")[:-1]

    assert chunks[0].startswith("\x1b_Ga=T,f=100,q=2,c=8,m=1;")
    assert chunks[-1].startswith("\x1b_Gm=0;")
    assert all(len(chunk.partition(";")[2]) <= 4096 for chunk in chunks)
    assert encoded("iterm", image, 8).startswith("\x1b]1337;File=inline=1;size=")


def test_sixel_draws_each_colour_of_six_rows_in_runs() -> None:
    drawn = encoded("sixel", checked(), 2)

    assert drawn.startswith('\x1bP0;1q"1;1;16;12#')
    assert drawn.endswith("-\x1b\\")
    for colour in ("100;0;0", "0;0;100"):
        assert colour in drawn
    assert drawn.count("-") == 2  # twelve rows
    assert drawn.count("!8~") == 4  # each colour fills one half of both bands


def test_half_blocks_carry_two_rows_each() -> None:
    lines = list(half_blocks(checked(), 16))

    assert [str(line) for line in lines] == ["▀" * 16] * 6


def test_no_picture_where_nobody_looks() -> None:
    assert terminal.graphics(colours=True) == "none"  # under pytest nothing is a terminal


def test_errors_end_commands_with_documented_codes() -> None:
    from server.cli.exits import Exit, exit_of

    said = (ROOT / "docs" / "client.md").read_text()

    assert all(f"| {int(code)} |" in said for code in Exit)
    assert exit_of(client.NoKey()) == Exit.NO_SERVER
