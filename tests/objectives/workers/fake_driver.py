"""A CUDA driver that is not there: a `libcuda.so.1` that is as strict as the real one.

Memory comes in granules of 2 MiB; a context costs memory, in each process anew; an allocation has
to lie in one piece; what is not its own address is not freed, nor freed twice; without `cuInit` and
a current context nothing goes (codes: cuda.h). What a process leaves behind when it ends goes to
the file that `FAKE_GPU_ENDED` names.

The device is what the environment says: pieces of free memory and the cost of a context in MiB,
both as whole numbers, and its number.
"""

from __future__ import annotations

import atexit
import json
import shutil
import subprocess
import tempfile
import uuid
from functools import cache
from pathlib import Path

import pytest

MIB = 1 << 20
GPU = "GPU-11111111-2222-3333-4444-555555555555"

LIBCUDA = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define MIB (1ull << 20)
#define MOST 64
enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
       INVALID_DEVICE = 101, INVALID_CONTEXT = 201 };
typedef unsigned long long u64;
static struct { u64 address, size; int piece; } held[MOST];
static u64 pieces[MOST], total, most_held, now_held;
static int piece_count, initialised, retained, current, context, allocs;

static void ended(void) {
    const char *path = getenv("FAKE_GPU_ENDED");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "{\"allocs\": %d, \"held\": %llu, \"most_held\": %llu}",
            allocs, now_held, most_held);
    fclose(file);
}
int cuInit(unsigned flags) {
    const char *shown = getenv("CUDA_VISIBLE_DEVICES"), *free_ = getenv("FAKE_GPU_PIECES");
    if (flags) return INVALID_VALUE;
    if (!shown || !shown[0]) return NO_DEVICE;
    if (getenv("FAKE_GPU_HANGS")) for (;;) pause();
    char *text = strdup(free_ ? free_ : "64"), *part = strtok(text, "+");
    for (; part; part = strtok(NULL, "+")) pieces[piece_count++] = strtoull(part, NULL, 10) * MIB;
    total = strtoull(getenv("FAKE_GPU_TOTAL") ? getenv("FAKE_GPU_TOTAL") : "128", NULL, 10) * MIB;
    initialised = 1; atexit(ended); return 0; }
int cuDeviceGet(int *device, int ordinal) {
    if (!initialised) return NOT_INITIALIZED;
    if (ordinal) return INVALID_DEVICE;
    *device = 7; return 0; }
int cuDeviceGetUuid(unsigned char *number, int device) {
    const char *text = getenv("FAKE_GPU_NUMBER");
    if (!initialised) return NOT_INITIALIZED;
    if (device != 7) return INVALID_DEVICE;
    for (int at = 0; at < 16; at++) { unsigned byte; sscanf(text + 2 * at, "%2x", &byte);
        number[at] = byte; }
    return 0; }
int cuDevicePrimaryCtxRetain(void **handle, int device) {
    u64 cost = strtoull(getenv("FAKE_GPU_CONTEXT") ? getenv("FAKE_GPU_CONTEXT") : "0", NULL, 10);
    if (!initialised) return NOT_INITIALIZED;
    if (device != 7) return INVALID_DEVICE;
    *handle = &context;
    if (retained++) return 0;
    for (int at = 0; at < piece_count; at++)
        if (pieces[at] >= cost * MIB) { pieces[at] -= cost * MIB; return 0; }
    retained--; return OUT_OF_MEMORY; }
int cuCtxSetCurrent(void *handle) {
    if (!initialised) return NOT_INITIALIZED;
    if (handle != &context || !retained) return INVALID_CONTEXT;
    current = 1; return 0; }
int cuMemGetInfo_v2(size_t *free_, size_t *total_) {
    if (!current) return INVALID_CONTEXT;
    u64 moved = allocs && getenv("FAKE_GPU_MOVES") ? 512 * MIB : 0;
    *free_ = 0; *total_ = total;
    for (int at = 0; at < piece_count; at++) *free_ += pieces[at];
    *free_ -= moved; return 0; }
int cuMemAlloc_v2(u64 *address, size_t size) {
    u64 whole = (size + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
    if (!current) return INVALID_CONTEXT;
    if (!size || !address) return INVALID_VALUE;
    allocs++;
    if (getenv("FAKE_GPU_SLOW")) usleep(200000);
    for (int at = 0, slot = 0; at < piece_count; at++) {
        if (pieces[at] < whole) continue;
        while (slot < MOST && held[slot].size) slot++;
        if (slot == MOST) return OUT_OF_MEMORY;
        void *here = mmap(NULL, whole, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (here == MAP_FAILED) abort();
        *address = held[slot].address = (u64)here;
        held[slot].size = whole; held[slot].piece = at; pieces[at] -= whole;
        now_held += whole; if (now_held > most_held) most_held = now_held;
        return 0; }
    return OUT_OF_MEMORY; }
int cuMemFree_v2(u64 address) {
    if (!current) return INVALID_CONTEXT;
    for (int slot = 0; slot < MOST; slot++)
        if (held[slot].size && held[slot].address == address) {
            munmap((void *)address, held[slot].size);
            pieces[held[slot].piece] += held[slot].size; now_held -= held[slot].size;
            held[slot].size = 0; return 0; }
    return INVALID_VALUE; }
int cuMemsetD8_v2(u64 address, unsigned char value, size_t size) {
    if (!current) return INVALID_CONTEXT;
    for (int slot = 0; slot < MOST; slot++)
        if (held[slot].size >= size && held[slot].address == address) {
            memset((void *)address, value, size); return 0; }
    return INVALID_VALUE; }
int cuCtxSynchronize(void) { return current ? 0 : INVALID_CONTEXT; }
int cuGetErrorName(int code, const char **name) {
    switch (code) {
        case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; return 0;
        case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return 0;
        case NOT_INITIALIZED: *name = "CUDA_ERROR_NOT_INITIALIZED"; return 0;
        case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; return 0;
        case INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; return 0; }
    *name = NULL; return INVALID_VALUE; }
"""


@cache
def library():
    """Folder with it; pages of its device are ordinary memory once they are written."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for a driver that is not there")
    folder = Path(tempfile.mkdtemp(prefix="driver-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source, built = folder / "cuda.c", folder / "libcuda.so.1"
    source.write_text(LIBCUDA)
    subprocess.run((compiler, "-shared", "-fPIC", "-o", str(built), str(source)), check=True)
    return folder


class FakeDevice:
    """What the library's device is like, and what the last process did to it.

    Args:
        folder: Where that process says so.
        pieces: Free memory, MiB, as it lies there.
        context: What a context costs, MiB.
        number: The device's, as NVML writes it.
        more: Further variables, without their `FAKE_GPU_`.
    """

    def __init__(self, folder, *, pieces=(64,), context=0, number=GPU, **more):
        self._ended = folder / "ended.json"
        self.env = {
            "LD_LIBRARY_PATH": str(library()),
            "CUDA_VISIBLE_DEVICES": "0",
            "FAKE_GPU_PIECES": "+".join(map(str, pieces)),
            "FAKE_GPU_CONTEXT": str(context),
            "FAKE_GPU_NUMBER": uuid.UUID(number.removeprefix("GPU-")).hex,
            "FAKE_GPU_ENDED": str(self._ended),
            **{f"FAKE_GPU_{name.upper()}": str(value) for name, value in more.items()},
        }

    @property
    def ended(self):
        """Its allocations, and the bytes that it held at most and at its end; None: it was not."""
        return json.loads(self._ended.read_text()) if self._ended.exists() else None
