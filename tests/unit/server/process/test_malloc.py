"""Memory that is freed and allocated again costs no page faults."""

import os
import subprocess
import sys

import pytest

from server.process.malloc import with_heap

FREE_AND_ALLOCATE = """
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


@pytest.mark.skipif(sys.platform != "linux" or not os.confstr("CS_GNU_LIBC_VERSION"), reason="needs glibc")
def test_a_large_block_that_is_freed_and_allocated_again_is_not_mapped_anew() -> None:
    environment = with_heap({"PATH": os.environ["PATH"]})
    run = subprocess.run([sys.executable, "-c", FREE_AND_ALLOCATE], env=environment, capture_output=True, check=True)
    assert int(run.stdout) < 100, "page faults for 4 × 48 MiB, which are 49,152 small pages"


def test_malloc_settings_of_the_environment_stay() -> None:
    assert with_heap({"MALLOC_ARENA_MAX": "4", "HOME": "/"})["MALLOC_ARENA_MAX"] == "4"
