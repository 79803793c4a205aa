"""Real clients of the Responses API, unmodified, whole and streamed, against a model with scripted replies."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.chat_interface import ChatRequest, Message, TokenLogprobs, TokenText, ToolCall
from server.job import Job
from server.protocol import JobReplied
from tests.fakes import FakeReply, messages_in
from tests.support.http.client_programs import run_program
from tests.support.http.front import Front, front
from tests.support.http.http_front import listening

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CITY = '{"name": "Rome", "people": 3}'
ROME = ToolCall("call_rome", "weather", '{"city": "Rome"}')
OSLO = ToolCall("call_oslo", "weather", '{"city": "Oslo"}')
QUESTION = Message("user", "How is the weather in Rome?")


def scripted(f: Front) -> None:
    """Makes the model call the tools that it is offered, give JSON when asked, and else count what it was asked."""

    def reply(request: ChatRequest) -> str | FakeReply:
        asked, tools = messages_in(request.prompt), f.prompt_reader.options[-1].tool_use.tools
        text = asked[-1][1]
        if "as JSON" in text:
            return CITY
        if "by its tool" in text:
            return FakeReply("", calls=(ToolCall("call_city", tools[0].name, CITY),))
        if "weather" in text:
            return FakeReply("", calls=(ROME, OSLO) if "Oslo" in text else (ROME,))
        return FakeReply(f"Hé 👋 {len(asked)}", "Hm." if text == "Hi" else "")

    f.engine.reply = reply


async def test_openais_python_library(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        scripted(f)
        with_logprobs = Logprobs(f)
        got = await run_program("openai_responses.py", address, f.keys["pro"])
        asked, options = f.prompt_reader.messages, f.prompt_reader.options

    assert got["texts"] == {
        "whole": "Hé 👋 2", "status": "completed", "metadata": {"a": "b"}, "tokens": 20, "reasoning tokens": 3,
        "summary": "Hm.", "streamed": "Hé 👋 1", "thoughts": "Hm.", "final": "Hé 👋 1",
        "final types": ["reasoning", "message"],
    }  # fmt: skip
    assert asked[0] == (Message("system", "Be brief."), Message("user", "Hi"))
    tools = got["tools"]
    assert tools["calls"] == [["weather", {"city": "Rome"}], ["weather", {"city": "Oslo"}]]
    assert (tools["answer"], tools["again"], tools["in order"]) == ("Hé 👋 4", "Hé 👋 4", True)
    assert tools["streamed call"] == [['{"city":', ' "Rome"}'], [ROME.arguments]]
    in_chain, sent_back = asked[3], asked[4]
    assert in_chain == sent_back
    assert in_chain[1:] == (
        Message("assistant", "", tool_calls=(ROME, OSLO)),
        Message("tool", "sun in Rome", name="weather", tool_call_id="call_rome"),
        Message("tool", "sun in Oslo", name="weather", tool_call_id="call_oslo"),
    )
    assert got["parsed"] == {"whole": json.loads(CITY), "streamed": json.loads(CITY)}
    schemas = [json.loads(option.grammar.text) for option in options if option.grammar is not None]
    assert [sorted(schema["properties"]) for schema in schemas] == [["name", "people"]] * 2
    not_found = [400, "previous_response_not_found", "previous_response_id"]
    prompt = [["user", "One"], ["assistant", "Hé 👋 1"], ["user", "Two"]]
    assert got["stored"] == {
        "counted": len(json.dumps(prompt)),
        "same": True, "items": prompt,
        "deleted": [404, "not_found", None], "after deletion": not_found, "unstored": not_found,
        "cancel": [400, None, None],
    }  # fmt: skip
    assert got["logprobs"] == with_logprobs.expected


class Logprobs:
    """Adds log probabilities to the replies that ask for them."""

    def __init__(self, f: Front) -> None:
        likeliest = (TokenText("Hé", "Hé".encode(), -0.5), TokenText("Ho", b"Ho", -1.5))
        self.token = TokenLogprobs(likeliest[0], likeliest)
        top = [{"token": t.text, "bytes": list(t.utf8), "logprob": t.logprob} for t in likeliest]
        self.expected = [{**top[0], "top_logprobs": top}]
        self._f = f
        self._submit = f.engine.submit
        f.engine.submit = self.submit  # type: ignore[method-assign]  # wraps the method

    def submit(self, job: Job, need_bytes: int = 0, at: float | None = None) -> None:
        request = job.requests[0]
        if not isinstance(request, ChatRequest) or request.n_logprobs is None:
            self._submit(job, need_bytes, at)
            return
        engine = self._f.engine
        engine.jobs[job.id] = job
        engine.start_job(job.id)
        engine.say(job.id, "Hé", "content", (self.token,))
        engine.deliver(JobReplied(job.id, "Hé", 12, 1, "stop"))


async def test_langchain_pydantic_ai_and_litellm(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        scripted(f)
        got = await run_program("responses_apps.py", address, f.keys["pro"])
        asked, options = f.prompt_reader.messages, f.prompt_reader.options

    city = json.loads(CITY)
    assert got["langchain"] == {
        "whole": "Hé 👋 2", "tokens": 20, "streamed": "Hé 👋 1", "calls": [["weather", {"city": "Rome"}]],
        "answer": "Hé 👋 3", "kept": ["Hé 👋 1", "Hé 👋 3"], "city": city,
    }  # fmt: skip
    assert got["pydantic-ai"] == {"whole": "Hé 👋 2", "streamed": "Hé 👋 4", "answer": "Hé 👋 3", "city": city}
    assert got["litellm"] == {"whole": "Hé 👋 2", "tokens": 20, "streamed": "Hé 👋 1"}
    loops = [messages for messages in asked if messages[-1].role == "tool"]
    expected = (
        QUESTION,
        Message("assistant", "", tool_calls=(ROME,)),
        Message("tool", "sun in Rome", name="weather", tool_call_id="call_rome"),
    )
    assert loops == [expected] * 2
    offered = {tool.name for option in options for tool in option.tool_use.tools}
    assert offered == {"weather", "final_result"}


async def test_openais_node_library_and_vercels_ai_sdk(tmp_path: Path) -> None:
    async with front(tmp_path) as f, listening(f) as address:
        scripted(f)
        got = await run_program("responses.mjs", address, f.keys["pro"])
        asked = f.prompt_reader.messages

    assert got["openai"] == {
        "whole": "Hé 👋 2", "streamed": "Hé 👋 3", "final": "Hé 👋 3",
        "items": ["message", "reasoning", "message", "message"], "gone": 404,
    }  # fmt: skip
    assert got["vercel"] == {
        "whole": "Hé 👋 2", "tokens": 20, "streamed": "Hé 👋 1", "answer": "Hé 👋 3",
        "calls": [["weather", {"city": "Rome"}]], "streamedAnswer": "Hé 👋 3", "object": json.loads(CITY),
        "next": "Hé 👋 3",
    }  # fmt: skip
    assert asked[-1] == (
        Message("user", "Hi"), Message("assistant", "Hé 👋 2", thinking="Hm."), Message("user", "Two"),
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("codex") is None, reason="Codex is not installed: npm install -g @openai/codex")
async def test_codex_runs_a_command_and_answers(tmp_path: Path) -> None:
    def reply(request: ChatRequest) -> FakeReply:
        (_, text) = messages_in(request.prompt)[-1]
        if "Say the word" in text:
            call = ToolCall("call_1", "exec_command", json.dumps({"cmd": "echo tuesday"}))
            return FakeReply("Let me see.", "I run it.", (call,))
        return FakeReply("It says " + ("tuesday." if "tuesday" in text else "nothing."))

    home = tmp_path / "codex"
    home.mkdir()
    async with front(tmp_path / "server") as f, listening(f) as address:
        f.engine.reply = reply
        (home / "config.toml").write_text(
            'model = "talker"\nmodel_provider = "local"\n[model_providers.local]\nname = "local"\n'
            f'base_url = "{address}/v1"\nwire_api = "responses"\nenv_key = "LOCAL_KEY"\n'
        )
        command = ["codex", "exec", "--json", "--skip-git-repo-check", "--sandbox", "read-only", "Say the word."]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home), "LOCAL_KEY": f.keys["pro"]},
        )  # fmt: skip
        output, _ = await process.communicate()
        asked = f.prompt_reader.messages[-1]

    lines = [json.loads(line) for line in output.decode().splitlines() if line.startswith("{")]
    done: list[Any] = [line["item"] for line in lines if line["type"] == "item.completed"]
    assert [item["text"] for item in done if item["type"] == "agent_message"] == ["Let me see.", "It says tuesday."]
    (run,) = (item for item in done if item["type"] == "command_execution")
    assert (run["exit_code"], "tuesday" in run["aggregated_output"]) == (0, True)
    assert [message.role for message in asked[-3:]] == ["user", "assistant", "tool"]
