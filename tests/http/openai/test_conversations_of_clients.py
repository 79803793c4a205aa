"""Real clients hold conversations of six turns, whole and streamed, over a socket. Each sends back exactly what its own
library made of the replies, of which every other one has thinking before it.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from tests.support.http.client_conversations import N_TURNS, Talker, conversation, reply_to
from tests.support.http.client_programs import run_program
from tests.support.http.front import front
from tests.support.http.http_front import listening
from tests.support.http.recorded_bodies import record

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PROGRAMS = {
    "conversations.py": ("openai-python", "langchain", "litellm", "instructor", "pydantic-ai"),
    "conversations.mjs": ("openai-node", "ai-sdk-openai-compatible", "ai-sdk-openai"),
}
THINKING, REPLY = reply_to(N_TURNS)
# What a client keeps of the thinking, where that is not all of it.
KEPT = {
    "langchain": None,
    "instructor": None,  # the caller of a stream keeps the text alone
    "ai-sdk-openai": "",  # it reads none of chat completions
    "openai-node, streamed": THINKING[5:],  # the library keeps the last piece of a field that it does not know
}


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_client_sends_back_the_whole_conversation(tmp_path: Path, program: str) -> None:
    names = [f"{client}, {way}" for client in PROGRAMS[program] for way in ("whole", "streamed")]
    talker = Talker()
    async with front(tmp_path) as f:
        talker.reply_in(f)
        bodies = count()
        record(f, lambda _: tuple(names[next(bodies) // N_TURNS].split(", ")))
        async with listening(f) as address:
            last = await run_program(program, address, f.keys["enterprise"])

    assert list(last) == names
    for number, name in enumerate(names):
        heard = talker.heard[number * N_TURNS : (number + 1) * N_TURNS]
        assert heard == [conversation(n) for n in range(1, N_TURNS + 1)], name
        kept = KEPT.get(name, KEPT.get(name.split(",")[0], THINKING))
        assert last[name] == {"text": REPLY, "thinking": kept}, name
