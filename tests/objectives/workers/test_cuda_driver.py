"""The driver's functions, called by a program of one line in a process of its own."""

import os
import subprocess
import sys

import pytest

from objectives.workers import cuda_driver
from tests.objectives.workers.fake_driver import GPU, FakeDevice

MIB = 1 << 20
PROGRAM = "import sys; sys.path.append(sys.argv[1]); import cuda_driver; import ctypes; {line}"
OPEN = "d = cuda_driver.CudaDriver('prog'); "


@pytest.fixture
def run(tmp_path):
    def run(line, **options):
        folder = os.path.dirname(cuda_driver.__file__)  # noqa: PTH120
        return subprocess.run(
            (sys.executable, "-I", "-S", "-c", PROGRAM.format(line=OPEN + line), folder),
            env={**os.environ, **FakeDevice(tmp_path, **options).env},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_context_is_taken_off_what_is_free(run):
    done = run("print(*d.memory())", pieces=(500, 20), context=300, total=1024)
    assert done.stdout == f"{220 * MIB} {1024 * MIB}\n"


def test_the_device_is_named_as_nvml_names_it(run):
    assert run("print(d.uuid)").stdout == f"{GPU}\n"


def test_memory_that_is_short_is_no_address_and_no_end(run):
    assert run("print(d.alloc(65 << 20), d.alloc(63 << 20) > 0)").stdout == "None True\n"


@pytest.mark.parametrize(
    ("line", "options", "code", "said"),
    [
        ("d.alloc(0)", {}, 3, "cuMemAlloc_v2: CUDA_ERROR_INVALID_VALUE (1)"),
        ("", {"pieces": (64,), "context": 65}, 1, "cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF"),
        (
            "a = ctypes.c_uint64(d.alloc(1)); d.call('cuMemFree_v2', a); d.call('cuMemFree_v2', a)",
            {},
            3,
            "cuMemFree_v2: CUDA_ERROR_INVALID_VALUE (1)",
        ),
    ],
    ids=["nothing", "a context that does not fit", "freed twice"],
)
def test_what_the_driver_refuses_ends_the_program_by_its_own_word(run, line, options, code, said):
    done = run(line, **options)
    assert done.returncode == code
    assert done.stderr.startswith(f"prog: {said}")
    assert done.stderr.count("\n") == 1


def test_bytes_are_told_in_gib():
    assert cuda_driver.gib(3 << 29) == "1.50 GiB"
