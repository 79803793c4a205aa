"""Becomes another program, which the kernel ends when the parent of this process ends, however that ends.

python -I -S launcher.py PARENT NICENESS LIMITS PROGRAM [ARGUMENT …]. PARENT is the parent's process id, LIMITS is
"resource=bytes or seconds,…" with the numbers of `resource`. It is a program of its own because a process with threads
cannot safely run code between fork and exec, and because the other program may be anything, such as ffmpeg. It imports
little, so it costs some milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PARENT_IS_GONE = 1  # exit code, for nobody


def set_signal_at_parents_end(number: int) -> None:
    """Ask Linux for this signal at the end of the thread that started this process; 0 for none."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(parent: str, niceness: str, limits: str, *command: str) -> None:
    set_signal_at_parents_end(signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before the call above
        os._exit(PARENT_IS_GONE)
    os.nice(int(niceness))
    for limit in filter(None, limits.split(",")):
        number, value = map(int, limit.split("="))
        resource.setrlimit(number, (value, value))
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, which a program would inherit
        signal.signal(ignored, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606  # an argument list of the server's


if __name__ == "__main__":
    main(*sys.argv[1:])
