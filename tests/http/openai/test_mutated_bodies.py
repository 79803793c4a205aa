"""2,000 mutations of bodies that real clients sent (`recorded/`): never a 500, never a hang, every refusal in shape."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from pipelines.chat_interface import ToolCall
from tests.fakes import FakeReply
from tests.support.http.front import front
from tests.support.http.mutated_requests import send_mutations
from tests.support.http.mutations import fault_of_refusal

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

RECORDED = Path(__file__).parent / "recorded"
N_MUTATIONS = 2000

FUNCTION = {
    "name": "weather", "description": "Says the weather.", "strict": True,
    "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": ["integer", "null"]}},
        "required": ["city"], "additionalProperties": False,
    },
}  # fmt: skip
NAMED = {"type": "function", "function": {"name": "weather"}}

# A body with all fields that are done, beside those that were recorded; and one with the older form of tools.
EVERYTHING = {
    "model": "talker", "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": None, "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}],
         "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "user", "content": "And?", "name": "anna"},
    ],
    "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 9, "max_completion_tokens": 9,
    "min_tokens": 1, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "stop": ["END", "\n"],
    "stop_token_ids": [4], "ignore_eos": False, "repetition_penalty": 1.1, "presence_penalty": 0.5,
    "frequency_penalty": 0.5, "logit_bias": {"6": 2}, "n": 2, "logprobs": True, "top_logprobs": 3,
    "reasoning_effort": "low", "reasoning": {"effort": "low", "max_tokens": 50, "exclude": False},
    "thinking": {"type": "enabled", "budget_tokens": 50}, "enable_thinking": True, "think": "low",
    "thinking_budget": 50, "include_reasoning": True, "chat_template_kwargs": {"enable_thinking": True, "a": [1]},
    "add_generation_prompt": True, "continue_final_message": False, "do_sample": True,
    "tools": [{"type": "function", "function": FUNCTION}, {"type": "function", "function": {"name": "now"}}],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}},
    "parallel_tool_calls": False, "response_format": {"type": "text"}, "user": "anna", "metadata": {"a": "b"},
}  # fmt: skip
OLDER = {
    "model": "talker",
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "42"},
    ],
    "functions": [FUNCTION, {"name": "now"}],
    "function_call": {"name": "weather"},
}
NAMING = {"messages": EVERYTHING["messages"], "tools": EVERYTHING["tools"], "tool_choice": NAMED}


async def test_mutated_bodies_are_answered_or_refused_in_shape(tmp_path: Path) -> None:
    bodies = [body for path in sorted(RECORDED.glob("*.json")) for body in json.loads(path.read_text()).values()]
    bodies += [EVERYTHING] * len(bodies) + [OLDER, NAMING] * (len(bodies) // 2)
    call = ToolCall("call_1", "weather", '{"city": "Rome"}')
    async with front(tmp_path) as f:
        f.engine.reply = lambda _: FakeReply("Hm.", calls=(call,) if f.prompt_reader.options[-1].tool_use.tools else ())
        statuses = await send_mutations(f, ["/v1/chat/completions"], bodies, N_MUTATIONS, fault_of)

    assert min(statuses[200], statuses[400]) > N_MUTATIONS / 5, statuses  # mutations that show something


def fault_of(reply: httpx.Response) -> str | None:
    """Returns what is wrong with a reply, of which a refusal is as good as any."""
    if reply.status_code == 200:
        streamed = reply.headers["content-type"].startswith("text/event-stream")
        whole = reply.text.endswith("data: [DONE]\n\n") if streamed else bool(reply.json()["choices"])
        return None if whole else "an incomplete reply"
    return fault_of_refusal(reply)
