import os
import signal
import subprocess
import sys
from contextlib import contextmanager

from objectives import workers
from objectives.telemetry.processes import pss_bytes
from tests.objectives.workers.fake_driver import FakeDevice

MIB = 1 << 20


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


def test_on_a_gpu_the_driver_allocates_and_every_byte_is_written(tmp_path):
    env = FakeDevice(tmp_path).env
    with holding("--kind", "cuda", "--bytes", 48 * MIB, **env) as process:
        assert pss_bytes(process.pid) > 48 * MIB


def test_a_gpu_that_is_too_full_is_refused_with_what_is_free(tmp_path):
    env = FakeDevice(tmp_path).env
    done = run("--kind", "cuda", "--bytes", 96 * MIB, **env)
    assert done.returncode == 1
    assert "0.09 GiB wanted on the GPU, and 0.06 GiB of 0.12 GiB are free" in done.stderr


def test_its_own_context_is_not_free_and_memory_in_pieces_is_no_room(tmp_path):
    env = FakeDevice(tmp_path, pieces=(40, 32), context=10).env
    done = run("--kind", "cuda", "--bytes", 40 * MIB, **env)
    assert done.returncode == 1
    assert "0.04 GiB wanted on the GPU, and 0.06 GiB of 0.12 GiB are free" in done.stderr


def test_a_gpu_that_is_hidden_is_named_by_the_drivers_own_word(tmp_path):
    env = {**FakeDevice(tmp_path).env, "CUDA_VISIBLE_DEVICES": ""}
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
