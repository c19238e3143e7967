import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from objectives import workers
from objectives.telemetry.processes import pss_bytes

MIB = 1 << 20

LIBCUDA = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int ready = 0;
int cuInit(unsigned flags) { return getenv("CUDA_VISIBLE_DEVICES")[0] ? 0 : 100; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &ready; return 0; }
int cuCtxSetCurrent(void *context) { ready = context == &ready; return 0; }
int cuMemGetInfo_v2(size_t *free_, size_t *total) {
    *free_ = 64u << 20; *total = 128u << 20; return ready ? 0 : 201; }
int cuMemAlloc_v2(unsigned long long *address, size_t size) {
    if (size > (64u << 20)) return 2;
    *address = (unsigned long long)malloc(size); return ready ? 0 : 201; }
int cuMemsetD8_v2(unsigned long long address, unsigned char value, size_t size) {
    memset((void *)address, value, size); return 0; }
int cuCtxSynchronize(void) { return 0; }
int cuGetErrorName(int code, const char **name) {
    *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_SOMETHING"; return 0; }
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Folder with a libcuda.so.1 whose device is 64 MiB of ordinary memory."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for a driver that is not there")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(LIBCUDA)
    library = folder / "libcuda.so.1"
    command = (compiler, "-shared", "-fPIC", "-o", str(library), str(folder / "cuda.c"))
    subprocess.run(command, check=True)
    return folder


def command(*options):
    return (sys.executable, "-I", "-S", str(workers.HOLD_MEMORY), *map(str, options))


def run(*options, **env):
    return subprocess.run(
        command(*options), env={**os.environ, **env}, capture_output=True, text=True, check=False
    )


@contextmanager
def holding(*options, **env):
    process = subprocess.Popen(
        command(*options), env={**os.environ, **env}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().startswith(workers.HOLD_MEMORY_READY)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
        process.stdout.close()


def test_on_a_cpu_every_page_is_really_there():
    with holding("--kind", "cpu", "--bytes", 1) as nothing:
        least = pss_bytes(nothing.pid)
    with holding("--kind", "cpu", "--bytes", 48 * MIB) as process:
        held = pss_bytes(process.pid) - least
        assert 47 * MIB <= held <= 50 * MIB


def test_more_than_is_available_is_refused_before_anything_suffers():
    done = run("--kind", "cpu", "--bytes", 1 << 50)
    assert done.returncode == 1
    assert "1048576.00 GiB wanted" in done.stderr
    assert done.stdout == ""


def test_on_a_gpu_the_driver_allocates_and_every_byte_is_written(driver):
    env = {"LD_LIBRARY_PATH": str(driver), "CUDA_VISIBLE_DEVICES": "GPU-1"}
    with holding("--kind", "cuda", "--bytes", 48 * MIB, **env) as process:
        assert pss_bytes(process.pid) > 48 * MIB


def test_a_gpu_that_is_too_full_is_refused_with_what_is_free(driver):
    env = {"LD_LIBRARY_PATH": str(driver), "CUDA_VISIBLE_DEVICES": "GPU-1"}
    done = run("--kind", "cuda", "--bytes", 96 * MIB, **env)
    assert done.returncode == 1
    assert "0.09 GiB wanted on the GPU, and 0.06 GiB of 0.12 GiB are free" in done.stderr


def test_a_gpu_that_is_hidden_is_named_by_the_drivers_own_word(driver):
    env = {"LD_LIBRARY_PATH": str(driver), "CUDA_VISIBLE_DEVICES": ""}
    done = run("--kind", "cuda", "--bytes", MIB, **env)
    assert done.returncode == 3
    assert done.stderr == "hold_memory: cuInit: CUDA_ERROR_NO_DEVICE (100)\n"


def test_where_there_is_no_driver_it_says_so():
    env = {"LD_LIBRARY_PATH": ""}
    done = run("--kind", "cuda", "--bytes", MIB, CUDA_VISIBLE_DEVICES="", **env)
    assert done.returncode == 3
    assert done.stderr.startswith("hold_memory: ")


def test_nothing_is_no_size():
    done = run("--kind", "cpu", "--bytes", 0)
    assert done.returncode == 2
    assert "--bytes must be at least 1" in done.stderr
