"""The worker threads of the server process: what must not hold up the event loop or a device thread runs there."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

WORKER_NICENESS = 10


def _lower_priority() -> None:
    """Lower the priority of this thread: encoding a clip takes whole cores, which would slow a chat on the CPU.

    Linux only; elsewhere the priority is that of the whole process.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WORKER_NICENESS)


def _pool(name: str, workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix=name)


@dataclass(frozen=True)
class Pools:
    artifacts: ThreadPoolExecutor = field(  # encode and write results
        default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="artifacts", initializer=_lower_priority)
    )
    # Chat templates and tokenizers run there, or are waited for where a child process runs them.
    prompts: ThreadPoolExecutor = field(default_factory=lambda: _pool("prompts", 8))
    # Read grammars, each in a process at first, so that prompts do not wait for them.
    grammars: ThreadPoolExecutor = field(default_factory=lambda: _pool("grammars", 2))
    texts: ThreadPoolExecutor = field(default_factory=lambda: _pool("texts", 8))  # tokenize texts to embed, as prompts

    def close(self) -> None:
        """Waits for results that are being written. Nobody waits for a prompt any more."""
        self.artifacts.shutdown()
        for reading in (self.prompts, self.grammars, self.texts):
            reading.shutdown(wait=False, cancel_futures=True)
