"""Memory that is freed and taken again costs the device thread nothing."""

import os
import subprocess
import sys

import pytest

from server.process.malloc import with_heap

TAKE_AGAIN = """
import ctypes, resource, threading

def faults():
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt

def work():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.memset.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    for n in range(6):
        if n == 2:
            began = faults()
        block = libc.malloc(48 << 20)
        libc.memset(block, 1, 48 << 20)
        libc.free(block)
    print(faults() - began)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc's settings")
def test_a_large_block_freed_and_taken_again_is_not_mapped_anew() -> None:
    environment = with_heap({"PATH": os.environ["PATH"]})
    run = subprocess.run([sys.executable, "-c", TAKE_AGAIN], env=environment, capture_output=True, check=True)
    assert int(run.stdout) < 100, "page faults of four times 48 MiB, which have 49,152 small pages"


def test_what_the_environment_says_of_the_heap_stays() -> None:
    assert with_heap({"MALLOC_ARENA_MAX": "4", "HOME": "/"})["MALLOC_ARENA_MAX"] == "4"
