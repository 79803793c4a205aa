"""Kills the serving process and its supervisor with SIGKILL at random moments, under a mixed load, and counts the harm.

    python benchmarks/kills.py --kills 100 --seed 7

Prints how many jobs were lost, doubled and mischarged, the files that belong to nobody, and the time until the server
was ready again. Exits with 1 if there was any harm.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.mixed_load import Load, wait_all_ended, wait_ready
from tests.support.http.live_audit import audit
from tests.support.http.live_server import LiveServer

EVERY_NTH_SUPERVISOR = 4
# From ready to the next kill. The longest suffices to load the models and to work. A model whose load is killed six
# times in a row is set aside, as it should be, and its jobs fail.
BETWEEN_S = (0.5, 9.0)


@dataclass
class Harm:
    kills: Counter[str] = field(default_factory=Counter)
    ready_s: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    doubled: int = 0
    mischarged: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)  # what else the audit found
    accepted: int = 0

    @property
    def lost(self) -> int:
        return self.ends["lost"] + self.ends["endless"]

    @property
    def any(self) -> bool:
        return bool(self.lost or self.doubled or self.mischarged or self.orphans or self.other)


def kill_again_and_again(
    folder: Path,
    kills: int,
    seed: int,
    *,
    clients: int = 4,
    port: int = 0,
    between_s: tuple[float, float] = BETWEEN_S,
) -> Harm:
    """Runs a server in `folder`, kills it `kills` times, and audits it at the end."""
    rng, harm = random.Random(seed), Harm()
    live = LiveServer(folder / "data", {"AGENTNAME_TORCH_THREADS": "1"}, port=port).start()
    load = Load(live, seed, clients, pause_s=0.6).start()
    for number in range(1, kills + 1):
        time.sleep(rng.uniform(*between_s))
        who = "supervisor" if number % EVERY_NTH_SUPERVISOR == 0 else "server"
        began = time.monotonic()
        _kill(live, who)
        wait_ready(live)
        harm.ready_s.append(time.monotonic() - began)
        harm.kills[who] += 1
    load.stop()
    harm.ends = wait_all_ended(load)
    harm.accepted = len(load.owners)
    harm.doubled = sum(len(jobs) - 1 for jobs in load.jobs.values())
    harm.mischarged = _mischarged_chats(load)
    for problem in audit(live):
        kind = harm.mischarged if problem.startswith("L3") else harm.orphans if problem.startswith("L4") else harm.other
        kind.append(problem)
    code = live.stop()
    if code:
        harm.other.append(f"the server ended with {code}")
    return harm


def _kill(live: LiveServer, who: str) -> None:
    assert live.process is not None
    if who == "supervisor":
        with contextlib.suppress(ProcessLookupError, IndexError):  # its child ends with it, or has just ended
            live.kill(everything=True)
        if live.process.poll() is None:  # it had no child at the moment
            live.process.kill()
            live.process.wait()
        live.start()
        return
    while True:  # until it has a child
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(live.server_pid(), signal.SIGKILL)
            return
        time.sleep(0.01)


def _mischarged_chats(load: Load) -> list[str]:
    """A chat that was answered is charged; one whose connection broke may have been answered at that moment."""
    wrong = []
    for key_id, key in load.keys.items():
        used = load.live.get("/api/me", key=key).json["usage"]["chats"]["used"]
        replied, broken = load.chats[key_id]["replied"], load.chats[key_id]["broken"]
        if not replied <= used <= replied + broken:
            wrong.append(f"{used} chats charged, {replied} answered, {broken} broken")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        harm = kill_again_and_again(
            Path(folder), options.kills, options.seed, clients=options.clients, port=options.port
        )
    print(f"kills          {dict(harm.kills)}")
    print(f"accepted       {harm.accepted}: {dict(harm.ends)}")
    print(f"lost           {harm.lost}")
    print(f"doubled        {harm.doubled}")
    print(f"mischarged     {len(harm.mischarged)} {harm.mischarged[:5]}")
    print(f"orphan files   {len(harm.orphans)} {harm.orphans[:5]}")
    print(f"other          {len(harm.other)} {harm.other[:5]}")
    print(f"ready again    median {statistics.median(harm.ready_s):.1f} s, longest {max(harm.ready_s):.1f} s")
    return int(harm.any)


if __name__ == "__main__":
    sys.exit(main())
