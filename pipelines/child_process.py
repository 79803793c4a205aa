"""Starts other programs, none of which outlives this process, however it ends, or learns its secrets. Any thread.

A program starts by way of `launcher.py`, which asks the kernel to end it with its parent. The kernel means the thread
that forked: all programs are therefore forked on the main thread, or on one that never ends. A program gets no
descriptors but its three streams, which are closed unless they are asked for, and of the environment only what is
listed here.
"""

from __future__ import annotations

import errno
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipelines.launcher import set_signal_at_parents_end

LAUNCHER = str(Path(__file__).with_name("launcher.py"))

# Names of the environment's variables; * stands for anything. The switchboard of faults is set in tests alone.
ALWAYS = ("PATH", "LANG", "LC_*", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "AGENTNAME_FAULTS", "AGENTNAME_TESTING")
USER = ("HOME", "USER", "LOGNAME", "XDG_*_HOME")
NETWORK = (
    *USER, "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC",
)  # fmt: skip
PIP = (*NETWORK, "PIP_*")
PULL = (*PIP, "HF_*", "HUGGINGFACE_*", "HUGGING_FACE_*")  # with the hub's token
READER = (*USER, "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")  # where checkpoints are, without the token
COMPILER = (
    *USER, "CUDA_*", "NVIDIA_*", "HIP_*", "ROCM_*", "ROCR_*", "TORCH*", "PYTORCH_*", "TRITON_*", "ATEN_*", "DNNL_*",
    "ONEDNN_*", "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "MALLOC_*", "CC", "CXX", "CPATH", "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH", "LIBRARY_PATH",
)  # fmt: skip

MAX_OUTPUT_BYTES = 4 << 20
PIECE_BYTES = 1 << 16

_forking = ThreadPoolExecutor(1, thread_name_prefix="children")  # its thread ends with the process
_running: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()
_lock = threading.Lock()  # for `_running`


class TooMuchOutput(subprocess.SubprocessError):
    """A program printed more than it may, and was ended."""


def prepare() -> None:
    """Start the thread that forks; from the main thread, whose priority it takes over, and with it its children."""
    _forking.submit(int).result()


def environment(names: Sequence[str] = ()) -> dict[str, str]:
    """What a program gets: what all get, and these. Python programs find the same modules as this one."""
    wanted = (*ALWAYS, *names)
    kept = {name: text for name, text in os.environ.items() if any(fnmatchcase(name, each) for each in wanted)}
    return kept | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def launched(command: Sequence[str], *, niceness: int = 0, limits: Mapping[int, int] | None = None) -> list[str]:
    """The command that runs `command` so that it ends with this process. Raises OSError for a program that is missing.

    limits: of `resource`, as RLIMIT_CPU: 25.
    """
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    listed = ",".join(f"{number}={value}" for number, value in (limits or {}).items())
    return [sys.executable, "-I", "-S", LAUNCHER, str(os.getpid()), str(niceness), listed, *command]


def start(
    command: Sequence[str],
    *,
    env: Sequence[str] = (),
    niceness: int = 0,
    limits: Mapping[int, int] | None = None,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = subprocess.DEVNULL,
    stderr: int | None = subprocess.DEVNULL,
    own_group: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a program. Raises OSError when that is not possible.

    env: names of variables, see `environment`. own_group: with what it starts it is one group, which `end` ends.
    False for a child of a child, which belongs to the latter's group.
    """
    whole = launched(command, niceness=niceness, limits=limits)
    variables = environment(env)

    def fork() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            whole, env=variables, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=own_group
        )

    on_main_thread = threading.current_thread() is threading.main_thread()
    process = fork() if on_main_thread else _forking.submit(fork).result()
    with _lock:
        _running.add(process)
    return process


def run(
    command: Sequence[str],
    *,
    timeout_s: float | None,
    text: bytes | None = None,
    env: Sequence[str] = (),
    niceness: int = 0,
    limits: Mapping[int, int] | None = None,
    own_group: bool = True,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, with `text` as its standard input. It is ended when this raises.

    Raises OSError, and `subprocess.SubprocessError`: `subprocess.TimeoutExpired` and `TooMuchOutput`.

    max_output_bytes: of what it prints, on both streams together.
    """
    stdin = subprocess.DEVNULL if text is None else subprocess.PIPE
    process = start(
        command,
        env=env,
        niceness=niceness,
        limits=limits,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        own_group=own_group,
    )
    with process:
        try:
            out, err = _communicate(process, text or b"", timeout_s, max_output_bytes)
        except BaseException:
            end(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _communicate(
    process: subprocess.Popen[bytes], text: bytes, timeout_s: float | None, max_output_bytes: int
) -> tuple[bytes, bytes]:
    """As `Popen.communicate`, which keeps whatever a program prints."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    unwritten = memoryview(text)
    out, err, n_printed = bytearray(), bytearray(), 0
    with selectors.DefaultSelector() as selector:
        for output, kept in ((process.stdout, out), (process.stderr, err)):
            assert output is not None
            selector.register(output, selectors.EVENT_READ, kept)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(process.args, timeout_s or 0.0)
            for key, _ in ready:
                if key.data is None:  # its input
                    try:
                        unwritten = unwritten[os.write(key.fd, unwritten[:PIECE_BYTES]) :]
                    except BrokenPipeError:  # it does not read all of it
                        unwritten = unwritten[:0]
                    is_over = not unwritten
                else:
                    piece = os.read(key.fd, PIECE_BYTES)
                    key.data.extend(piece)
                    n_printed += len(piece)
                    is_over = not piece
                if n_printed > max_output_bytes:
                    raise TooMuchOutput(f"it printed more than {max_output_bytes:,} bytes")
                if is_over:
                    stream: Any = selector.unregister(key.fileobj).fileobj
                    stream.close()
    process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    return bytes(out), bytes(err)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program and its group at once. Wait for it afterwards, or it stays a zombie."""
    with suppress(ProcessLookupError, PermissionError):  # nothing of it is left
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def end_all() -> None:
    """End every program that `start` has started; whoever waits for one sees it end."""
    with _lock:
        running = [process for process in _running if process.returncode is None]
    for process in running:
        end(process)


def ends_by_itself() -> None:
    """In a program: it notices its parent's end itself from now on, and ends what it has started, too."""
    set_signal_at_parents_end(0)
