"""A fake model for conversations of real clients: it thinks before every other reply, and keeps what it was sent."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.job import Job
from server.protocol import JobReplied
from tests.support.http.chats import messages_of
from tests.support.http.front import Front

N_TURNS = 6
QUESTIONS = [f"Question {n} 👋" for n in range(1, N_TURNS + 1)]
SYSTEM = "Be brief."


def reply_to(n: int) -> tuple[str, str]:
    """What the model thinks before its reply to question `n`, counted from 1, and the reply."""
    return (f"Thought {n}: é." if n % 2 == 0 else ""), f"Reply {n}: 日本 👩‍👩‍👧."


def conversation(n: int) -> list[tuple[str, str]]:
    """Role and content of the messages that the model gets with question `n`."""
    turns = [pair for i in range(1, n) for pair in (("user", QUESTIONS[i - 1]), ("assistant", reply_to(i)[1]))]
    return [("system", SYSTEM), *turns, ("user", QUESTIONS[n - 1])]


@dataclass
class Talker:
    """Replies to question n with `reply_to(n)`, in pieces."""

    heard: list[list[tuple[str, str]]] = field(default_factory=list)

    def reply_in(self, f: Front) -> None:
        f.engine.reply = None
        submit = f.engine.submit

        def submit_and_reply(job: Job, need_bytes: int = 0, at: float | None = None) -> None:
            submit(job, need_bytes, at)
            self.heard.append(messages_of(job))
            thinking, text = reply_to(sum(role == "user" for role, _ in self.heard[-1]))
            f.engine.start_job(job.id)
            for piece in filter(None, (thinking[:5], thinking[5:])):
                f.engine.say(job.id, piece, "thinking")
            for piece in (text[:9], text[9:]):
                f.engine.say(job.id, piece)
            f.engine.deliver(JobReplied(job.id, text, 12, 7, "stop", thinking, 2 if thinking else 0))

        f.engine.submit = submit_and_reply  # type: ignore[method-assign]  # wraps the method
