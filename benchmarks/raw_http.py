"""Sends bytes that are almost HTTP to the whole server, and watches what others notice of it.

    python benchmarks/raw_http.py --inputs 5000 --seed 1 --json raw_http.json

Eight clients send damaged requests without a key, each on a connection of its own, while another client asks for
/healthz and, with a key, for /api/me. Fails when a reply is a 5xx, when one of these requests takes longer than a
second or is not a 200, when the server logs a request as failed, or when memory and descriptors are not given back.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import re
import socket
import sys
import threading
import time
from pathlib import Path

import server_client

from tests.support.http.live_server import LiveServer
from tests.support.http.raw_requests import RawInput, raw_inputs

CLIENTS = 8
REPLY_S = 0.25  # most inputs that get no reply are half a request: their clients give up after this
MOST_S = 1.0
GROWN_MIB = 40  # of the server's memory; the first requests of each kind take some


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with server_client.server() as (live, body):
        server_client.wait_done(live, live.submit(**body, steps=1))  # with a model loaded, memory stays as it is
        found = measure(live, arguments.inputs, arguments.seed)
        found["log_failures"] = Path(live.log.name).read_text().count('"msg": "request failed"')
    faults = judge(found)
    print(json.dumps(found | {"faults": faults}, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found | {"faults": faults}, indent=2))
    sys.exit(bool(faults))


def measure(live: LiveServer, n: int, seed: int) -> dict[str, object]:
    send_all(live.port, raw_inputs(seed + 1, n // 20))  # what the first requests take for good is not counted
    before, pid = used(live), live.server_pid()
    latencies: list[float] = []
    wrong: collections.Counter[str] = collections.Counter()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for path, key in (("/healthz", None), ("/api/me", "")):
                began = time.monotonic()
                try:
                    status = str(live.get(path, key=key).status)
                except OSError as error:
                    status = type(error).__name__
                latencies.append(time.monotonic() - began)
                if status != "200":
                    wrong[f"{path} {status}"] += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    statuses = send_all(live.port, raw_inputs(seed, n))
    seconds = time.monotonic() - began
    done.set()
    watcher.join()
    deadline = time.monotonic() + 30
    while (after := used(live))["descriptors"] > before["descriptors"] + 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    latencies.sort()
    return {
        "inputs": n,
        "seed": seed,
        "seconds": round(seconds, 1),
        "statuses": dict(sorted(statuses.items())),
        "others": len(latencies),
        "others_p99_ms": round(1000 * latencies[int(len(latencies) * 0.99)], 1),
        "others_max_ms": round(1000 * latencies[-1], 1),
        "others_wrong": dict(wrong),
        "before": before,
        "after": after,
        "same_process": live.server_pid() == pid,
    }


def judge(found: dict[str, object]) -> list[str]:
    statuses, before, after = (dict(found[name]) for name in ("statuses", "before", "after"))  # type: ignore[call-overload]
    return [
        fault
        for fault, happened in (
            ("a reply was a 5xx", any(re.fullmatch("5..", status) for status in statuses)),
            ("another client waited too long", float(str(found["others_max_ms"])) > 1000 * MOST_S),
            ("another client got another reply", bool(found["others_wrong"])),
            ("the log has failed requests", bool(found["log_failures"])),
            ("the process was another one", not found["same_process"]),
            ("memory was not given back", after["mib"] > before["mib"] + GROWN_MIB),
            ("descriptors were not given back", after["descriptors"] > before["descriptors"] + 2),
        )
        if happened
    ]


def send_all(port: int, inputs: object) -> collections.Counter[str]:
    """Returns how often each status, or end without one, came."""
    waiting: queue.Queue[RawInput | None] = queue.Queue()
    for each in inputs:  # type: ignore[attr-defined]  # an iterator
        waiting.put(each)
    statuses: collections.Counter[str] = collections.Counter()

    def work() -> None:
        while True:
            try:
                each = waiting.get_nowait()
            except queue.Empty:
                return
            assert each is not None
            statuses[send(port, each)] += 1

    clients = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return statuses


def send(port: int, each: RawInput) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            for piece in each.pieces:
                sock.sendall(piece)
            if each.half_closes:
                sock.shutdown(socket.SHUT_WR)
            if not each.reads:
                return "not read"
            sock.settimeout(REPLY_S)
            head = sock.recv(65_536)
            found = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
            return found[1].decode() if found else "not HTTP" if head else "closed"
    except TimeoutError:
        return "no reply yet"
    except OSError:
        return "reset"


def used(live: LiveServer) -> dict[str, int]:
    pid = live.server_pid()
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return {"mib": int(found[1]) // 1024, "descriptors": len(os.listdir(f"/proc/{pid}/fd"))}


if __name__ == "__main__":
    main()
