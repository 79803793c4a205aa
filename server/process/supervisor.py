"""Owns the listening socket and keeps one server process running on it. Main thread of a process that loads no model.

The server process inherits the socket, so clients wait in the accept queue during a restart instead of being refused.
The server process writes a byte to a pipe every second (the heartbeat). When the bytes stop, the supervisor kills the
process and starts another, because a hung device call cannot be ended in any other way.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from server.marks import note_end, note_stop, read_marks, remove_marks
from server.process.oom_kills import oom_kills

logger = logging.getLogger(__name__)

Command: TypeAlias = Callable[[int, int], Sequence[str]]  # (socket fd, heartbeat fd) → argument list

POISONED = 86  # exit code: the CUDA context is broken; a new process gets a new one
HUNG = 87  # exit code: the process ended itself, because a thread of it hung
UNUSABLE = 78  # exit code (EX_CONFIG): another start would fail in the same way
BACKLOG = 2048  # clients that wait in the accept queue during a restart
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STACKS_S = 0.3  # for the stacks of a hung process to be written
HEARTBEAT_SLACK_S = 2.0  # a heartbeat comes every second, on a busy machine somewhat later
_EXTRA_GRACE_S = 5.0  # a stopping process is killed this long after its own grace period


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises OSError when the address is in use or not of this machine."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        # An old connection in TIME_WAIT is no reason to fail.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def die_with_parent(parent_pid: int) -> None:
    """Make the kernel kill this process when the supervisor ends, so that no device memory stays taken.

    The server process calls this first. Linux only; elsewhere the broken heartbeat pipe ends the process.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        if ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if os.getppid() != parent_pid:  # the supervisor ended before the call above
        os._exit(UNUSABLE)


class Restarts:
    """Decides when to start the server process again, from exit codes and times alone."""

    FIRST_S, LONGEST_S = 0.5, 5.0
    MOST_FAILED_STARTS = 5  # one after another
    LONG_RUN_S = 60.0

    def __init__(self) -> None:
        self._failed_starts = 0
        self._wait_s = self.FIRST_S

    def after(self, code: int, *, hung: bool, served: bool, ran_s: float) -> float | None:
        """Seconds to wait before the next start; None: give up. The first rule that applies:

        (1) another start would not help, or too many in a row have not come to serve: give up;
        (2) the device was poisoned or hung after a long run: start at once, because the process itself worked;
        (3) otherwise wait twice as long as the last time, beginning anew after a long run.

        A process that served is always started again: the next one sets the job or the model aside that ended it.
        """
        self._failed_starts = 0 if served else self._failed_starts + 1
        if code == UNUSABLE or self._failed_starts > self.MOST_FAILED_STARTS:  # (1)
            return None
        if ran_s >= self.LONG_RUN_S:
            self._wait_s = self.FIRST_S
            if code in (POISONED, HUNG) or hung:  # (2)
                return 0.0
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, self.LONGEST_S)  # (3)
        return wait_s


@dataclass(frozen=True, slots=True)
class Ended:
    """How a server process ended."""

    code: int
    hung: bool  # it was killed for a missing heartbeat
    served: bool  # it came so far as to serve
    doing: str  # what it was doing, by its marks; empty when that is not known

    def __str__(self) -> str:
        how = "hung, killed" if self.hung else "hung" if self.code == HUNG else _described(self.code)
        return f"{how}, in {self.doing}" if self.doing else how


class Supervisor:
    def __init__(
        self,
        command: Command,
        sock: socket.socket,
        *,
        step_timeout_s: float,
        shutdown_grace_s: float,
        marks: Path | None = None,
        start_timeout_s: float = 300.0,  # imports, migrations and an import of torch from a cold disk
        env: Mapping[str, str] | None = None,
    ) -> None:
        """marks: the folder of `server.marks`, in which the server process tells what it is doing."""
        self._marks = marks
        self._command = command
        self._sock = sock
        self._step_timeout_s = step_timeout_s
        self._start_timeout_s = max(start_timeout_s, step_timeout_s)
        self._grace_s = shutdown_grace_s
        self._env = env
        self._restarts = Restarts()
        self._stops_asked = 0  # written by the signal handler, which Python runs on the main thread
        self._stops_passed_on = 0
        self._wake, self._woken = socket.socketpair()

    def run(self) -> int:
        """Run until the server process ends for good; returns the exit code for this process."""
        handlers = {number: signal.signal(number, self._note) for number in (*_STOPS, signal.SIGCHLD)}
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        woken_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            return self._keep_running()
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self._wake.close()
            self._woken.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._stops_asked += 1

    def _keep_running(self) -> int:
        while True:
            started = time.monotonic()
            ended = self._run_once()
            code = ended.code
            if self._stops_asked:
                return 0 if code in (0, -signal.SIGTERM, -signal.SIGINT) else _exit_code(code)
            if code == 0:
                return 0
            ran_s = time.monotonic() - started
            wait_s = self._restarts.after(code, hung=ended.hung, served=ended.served, ran_s=ran_s)
            if wait_s is None:
                logger.error("the server process cannot be kept running, giving up", extra={"ended": str(ended)})
                return _exit_code(code)
            logger.warning("the server process ended, starting it again", extra={"ended": str(ended), "wait_s": wait_s})
            if self._pause(wait_s):
                return 0

    def _run_once(self) -> Ended:
        heartbeat, beating = os.pipe()
        try:
            child = subprocess.Popen(
                list(self._command(self._sock.fileno(), beating)),
                pass_fds=(self._sock.fileno(), beating),
                start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone, which forwards it once
                env=None if self._env is None else dict(self._env),
            )
        finally:
            os.close(beating)
        try:
            return self._watch(child, heartbeat)
        finally:
            os.close(heartbeat)
            if child.poll() is None:  # `_watch` itself failed; no process may be left behind
                child.kill()
                child.wait()

    def _watch(self, child: subprocess.Popen[bytes], heartbeat: int) -> Ended:
        """Wait until `child` has ended; returns how it did."""
        hung = served = False
        beat_at = math.inf
        oom_kills_before = oom_kills()
        deadline = time.monotonic() + self._start_timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(heartbeat, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while (code := child.poll()) is None:
                now = time.monotonic()
                if now >= deadline:
                    hung = not self._stops_asked
                    if hung:
                        self._look_at_hung(child.pid, beat_at)
                    child.kill()
                    deadline = math.inf
                for key, _ in selector.select(None if deadline == math.inf else deadline - now):
                    if key.fd != heartbeat:
                        _drain(self._woken)
                    elif not os.read(heartbeat, 4096):
                        selector.unregister(heartbeat)  # the child is ending; the deadline stays
                    elif not self._stops_asked and not hung:
                        served, beat_at = True, time.monotonic()
                        deadline = beat_at + self._step_timeout_s
                if self._pass_on_stops(child):
                    deadline = time.monotonic() + self._grace_s + _EXTRA_GRACE_S
        doing = [] if self._marks is None else read_marks(self._marks)
        # Libraries of a device that crash at their import end every start; somebody who kills the process says nothing.
        if code != -signal.SIGKILL and any(marked.action == "start" for marked in doing):
            served = False
        ended = Ended(code, hung, served, "; ".join(map(str, doing)))
        kernel_did_not = oom_kills_before is not None and oom_kills() == oom_kills_before
        killed_by_somebody = code == -signal.SIGKILL and not hung and kernel_did_not
        if self._marks is not None and not killed_by_somebody:
            note_end(self._marks, str(ended))
        return ended

    def _look_at_hung(self, pid: int, beat_at: float) -> None:
        """Log where a process stands that sends no heartbeat, and forget marks that do not say what hung it.

        beat_at: when its last heartbeat came. A thread that has gone on since then is not what hangs; a process that
        somebody has stopped does not hang at all.
        """
        stopped = _is_stopped(pid)
        if not stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)  # `faulthandler` writes the stack of every thread to its log
            time.sleep(STACKS_S)
        if self._marks is not None:
            marked = read_marks(self._marks)
            if stopped or any(each.since > beat_at + HEARTBEAT_SLACK_S for each in marked):
                logger.warning("nothing is to blame for the hang by its mark", extra={"stopped": stopped})
                remove_marks(self._marks)

    def _pass_on_stops(self, child: subprocess.Popen[bytes]) -> bool:
        """Forward the first request to stop, and kill at the second; True when there was a new request."""
        if self._stops_passed_on == self._stops_asked:
            return False
        if self._marks is not None:
            note_stop(self._marks)
        if self._stops_asked == 1:
            child.terminate()
        else:
            child.kill()
        self._stops_passed_on = self._stops_asked
        return True

    def _pause(self, seconds: float) -> bool:
        """Wait; True when a request to stop arrived meanwhile."""
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stops_asked and (left_s := until - time.monotonic()) > 0:
                if selector.select(left_s):
                    _drain(self._woken)
        return self._stops_asked > 0


def _drain(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK):
            raise


def _is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process, or a debugger. False where that cannot be told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def _described(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _exit_code(code: int) -> int:
    """The exit code as a shell reports it: 128 + the signal."""
    return 128 - code if code < 0 else code
