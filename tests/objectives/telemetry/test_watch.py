import os
import subprocess
import sys
import time

import pynvml
import pytest

from objectives.device.cpu import CpuNode
from objectives.device.cuda import all_devices
from objectives.errors import BenchError
from objectives.telemetry.watch import Telemetry
from tests.fakes import machines
from tests.fakes.fake_machine import FakeMachine
from tests.fakes.fake_nvml import GIB, FakeGpu, FakeNvml
from tests.fakes.fixed_node import fixed_node

MIB = 1 << 20
HOLDS_WHEN_TOLD = "input(); held = bytearray(64 << 20); print(len(held), flush=True); input()"


@pytest.fixture
def child():
    """A process that takes 64 MiB at the first line it gets, and ends at the second."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_WHEN_TOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def driver():
    with FakeNvml(FakeGpu(total_bytes=12 * GIB, used_bytes=2 * GIB)).installed() as fake:
        yield fake


@pytest.fixture
def gpu(driver):
    return all_devices()[0][0]


def looked(telemetry, times):
    """Wait until the telemetry has looked so many more times."""
    wanted = len(telemetry.record().samples) + times
    while len(telemetry.record().samples) < wanted:
        time.sleep(0.005)


def test_on_a_cpu_a_tenant_is_what_its_processes_hold(child):
    with Telemetry(CpuNode(), {"vllm": lambda: [child.pid], "idle": list}, 0.01) as telemetry:
        looked(telemetry, 2)
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        looked(telemetry, 2)
    record = telemetry.record()
    assert 64 * MIB <= record.tenants_bytes["vllm"] < 400 * MIB
    assert record.tenants_bytes["idle"] == 0
    assert record.peak_rss_by_tenant["vllm"] >= 64 * MIB
    assert record.memory_sources["vllm"] in ("pss", "rss")
    first, last = record.samples[0], record.samples[-1]
    assert last.by_tenant["vllm"] - first.by_tenant["vllm"] >= 60 * MIB


def test_it_tells_its_own_cost_and_the_share_of_others():
    with Telemetry(CpuNode(), {}, 0.01) as telemetry:
        looked(telemetry, 3)
    record = telemetry.record()
    assert record.cost_cpu_s > 0
    assert record.foreign_busy_share >= 0
    assert record.oom_kills in (None, 0)


def test_the_processor_time_of_the_study_is_not_foreign():
    with Telemetry(CpuNode(), {}, 0.01) as telemetry:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
    first, *_, last = [sample.cpu for sample in telemetry.record().samples if sample.cpu]
    assert last.ours_s - first.ours_s >= 0.1


def test_a_stretch_of_time_can_be_taken_out(gpu, driver):
    with Telemetry(gpu, {}, 0.01) as telemetry:
        driver.gpus[0].used_bytes = 9 * GIB
        looked(telemetry, 2)
        driver.gpus[0].used_bytes = 3 * GIB
        looked(telemetry, 2)
        begin = telemetry.now_s()
        looked(telemetry, 2)
        end = telemetry.now_s()
    assert telemetry.record().peak_used_bytes == 9 * GIB
    window = telemetry.record(since_s=begin, until_s=end)
    assert window.peak_used_bytes == 3 * GIB
    assert begin <= window.samples[0].time_s <= window.samples[-1].time_s <= end
    assert window.cost_cpu_s < telemetry.record().cost_cpu_s


def test_on_a_gpu_a_tenant_is_what_the_driver_lists(gpu, driver):
    mine, foreign = os.getpid(), os.getppid()
    driver.gpus[0].processes = {mine: 5 * GIB, foreign: GIB}
    driver.gpus[0].used_bytes = 7 * GIB
    with Telemetry(gpu, {"vllm": lambda: [mine], "whisper": list}, 0.01) as telemetry:
        looked(telemetry, 1)
    record = telemetry.record()
    assert record.tenants_bytes == {"vllm": 5 * GIB, "whisper": 0, "other": 2 * GIB}
    assert record.memory_sources == {"vllm": "nvml", "whisper": "nvml"}
    assert record.utilisation[0][1] == pytest.approx(0.37)


def test_on_a_gpu_that_tells_no_process_memory_a_tenants_is_unknown(gpu, driver):
    driver.gpus[0].processes = {os.getpid(): None}
    with Telemetry(gpu, {"vllm": lambda: [os.getpid()]}, 0.01) as telemetry:
        looked(telemetry, 1)
    assert telemetry.record().tenants_bytes == {"vllm": None, "other": None}
    assert telemetry.record().peak_used_bytes == 2 * GIB


def test_a_device_that_is_lost_is_told_to_whoever_asks(gpu, driver):
    with Telemetry(gpu, {}, 0.01) as telemetry:
        telemetry.check()
        driver.refused["nvmlDeviceGetMemoryInfo_v2"] = pynvml.NVML_ERROR_GPU_IS_LOST
        with pytest.raises(BenchError, match="nvmlDeviceGetMemoryInfo"):
            while True:
                telemetry.check()
                time.sleep(0.005)
    with pytest.raises(BenchError):
        telemetry.record()


def test_leaving_the_block_leaves_no_thread():
    import threading

    before = threading.active_count()
    with Telemetry(CpuNode(), {}, 0.01):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


class TestWhatIsToldOnEveryMachine:
    @pytest.fixture
    def watched(self):
        """A tenant of one process that took 3 GiB as it started, on this machine."""

        def watched(machine, *, grown=None):
            with machine.installed():
                gpu, tenants = machine.gpus[0], {"vllm": lambda: [os.getpid()]}
                gpu.processes, gpu.used_bytes = {os.getpid(): 3 * GIB}, 5 * GIB
                known = {} if grown is None else {"vllm": grown}
                device = all_devices()[0][0]
                with Telemetry(device, tenants, 0.01, grown=lambda: known) as telemetry:
                    looked(telemetry, 1)
                return telemetry.record()

        return watched

    @pytest.mark.parametrize(
        "machine",
        [machines.container_with_foreign_pids, machines.container_without_bytes, machines.wsl2],
    )
    def test_where_the_driver_tells_nothing_of_ours_a_start_does_and_that_is_said(
        self, watched, machine
    ):
        record = watched(machine(), grown=3 * GIB)
        assert record.tenants_bytes == {"vllm": 3 * GIB, "other": 2 * GIB}
        assert record.memory_sources == {"vllm": "difference"}
        assert watched(machine()).tenants_bytes == {"vllm": None, "other": None}

    def test_what_the_driver_tells_stands_before_it(self, watched):
        record = watched(FakeNvml(FakeGpu()), grown=7 * GIB)
        assert record.tenants_bytes["vllm"] == 3 * GIB
        assert record.memory_sources == {"vllm": "nvml"}


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_a_tenant_that_starts_has_unknown_bytes_and_not_none(gpu, kind):
    device = gpu if kind == "cuda" else CpuNode()
    with Telemetry(device, {"vllm": lambda: None}, 0.01) as telemetry:
        looked(telemetry, 1)
    assert telemetry.record().tenants_bytes == {"vllm": None, "other": None}


def test_who_is_up_is_known_at_the_next_look_and_not_at_the_next_careful_one(gpu, driver):
    driver.gpus[0].processes = {os.getpid(): GIB}
    pids = []
    with Telemetry(gpu, {"vllm": lambda: pids}, 0.01) as telemetry:
        looked(telemetry, 1)
        pids.append(os.getpid())
        looked(telemetry, 2)
        first, *_, last = telemetry.record().samples
    assert (first.by_tenant["vllm"], last.by_tenant["vllm"]) == (0, GIB)
    assert last.time_s < 1, "else the next careful look has come"


def test_kills_are_counted_where_the_device_has_its_files(tmp_path):
    machine = FakeMachine(tmp_path)
    machine.write("proc/vmstat", "oom_kill 5\n")
    with Telemetry(fixed_node(tmp_path), {}, 0.01) as telemetry:
        machine.write("proc/vmstat", "oom_kill 7\n")
    assert telemetry.record().oom_kills == 2
