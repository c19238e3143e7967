"""Whose fault it was that a server ended."""

import pynvml
import pytest

from objectives.causes import CAUSES, remedy_of
from objectives.device import nvml
from objectives.device.cuda import CudaDevice
from objectives.device.xid import XidWatch
from objectives.diagnosis.decision import DeviceEvidence
from objectives.diagnosis.diagnosis import Diagnosis
from objectives.errors import (
    BenchError,
    EngineError,
    NotReadyError,
    OutOfMemoryError,
    PortInUseError,
    ProfilingRaceError,
    RefusedToStartError,
    ServerDiedError,
)
from objectives.trial import attribution
from objectives.trial.attribution import MachineWatch
from objectives.units import GIB
from tests.fakes.fake_machine import FakeMachine
from tests.fakes.fake_nvml import FakeGpu, FakeNvml
from tests.kinds import VLLM, WHISPER
from tests.objectives.diagnosis.failing_logs import (
    OOM,
    RACE,
    READY,
    START,
    TOO_SMALL,
    engine_died,
    failed,
    lines,
)

XID = pynvml.nvmlEventTypeXidCriticalError
PORT = "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): "
PORT_IN_USE = f"{PORT}address already in use"
NO_MODEL = failed("OSError: a/b is not a valid model identifier listed on 'https://example.org'")


@pytest.fixture
def driver():
    with FakeNvml(FakeGpu(total_bytes=12 * GIB, used_bytes=2 * GIB)).installed() as fake:
        yield fake


@pytest.fixture
def host(tmp_path):
    """A machine whose kernel has killed five processes so far."""
    host = FakeMachine(tmp_path / "host")
    host.write("proc/vmstat", "oom_kill 5\n")
    return host


def card_of(host):
    """The first card of the fake driver, in that machine."""
    return CudaDevice(pynvml.nvmlDeviceGetHandleByIndex(0), 0, root=host.root)


@pytest.fixture
def machine(driver, host):
    nvml.start()
    device = card_of(host)
    with XidWatch(device) as watch:
        yield MachineWatch(device, watch)


@pytest.fixture
def log(tmp_path):
    def log(text):
        path = tmp_path / "server.log"
        path.write_text(text)
        return path

    return log


def died(log, *, server="vllm", returncode=1):
    return ServerDiedError(server, log=log, returncode=returncode)


def not_ready(log, *, server="vllm"):
    return NotReadyError(server, log=log, waited_s=600)


def cause_of_end(error, machine, *, serving, diagnose=VLLM.why_it_ended):
    """What an end means, where the log is read as that of vLLM."""
    return attribution.cause_of_end(error, machine, diagnose, serving=serving)


class TestWhatTheMachineSaw:
    def test_a_quiet_machine_saw_only_its_free_memory(self, machine):
        assert machine.evidence() == DeviceEvidence(xids=(), oom_kills=0, free_bytes=10 * GIB)

    def test_only_kills_since_the_watch_began_count(self, machine, host):
        host.write("proc/vmstat", "oom_kill 7\n")
        assert machine.evidence().oom_kills == 2

    @pytest.mark.parametrize("later", ["oom_kill 3\n", "nr_free_pages 1\n"])
    def test_a_count_that_went_back_or_away_is_no_kill(self, machine, host, later):
        host.write("proc/vmstat", later)
        assert machine.evidence().oom_kills == 0

    def test_a_count_that_nobody_knew_before_is_no_kill(self, driver, host):
        host.write("proc/vmstat", "nr_free_pages 1\n")
        device = card_of(host)
        watch = MachineWatch(device, XidWatch(device))
        host.write("proc/vmstat", "oom_kill 5\n")
        assert watch.evidence().oom_kills == 0

    def test_xids_and_free_memory_are_those_of_now(self, machine, driver):
        driver.gpus[0].events.append((XID, 31))
        assert machine.evidence().xids == (31,)
        driver.gpus[0].events.append((XID, 79))
        driver.gpus[0].used_bytes = 11 * GIB
        assert machine.evidence() == DeviceEvidence(xids=(31, 79), free_bytes=GIB)

    @pytest.mark.parametrize("name", ["nvmlEventSetWait_v2", "nvmlDeviceGetMemoryInfo_v2"])
    @pytest.mark.parametrize(
        "code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED]
    )
    def test_a_device_that_does_not_answer_takes_nothing_of_what_is_known(
        self, machine, driver, host, name, code
    ):
        driver.gpus[0].events.append((XID, 79))
        machine.evidence()
        driver.refused[name] = code
        host.write("proc/vmstat", "oom_kill 6\n")
        assert machine.evidence() == DeviceEvidence(xids=(79,), oom_kills=1, free_bytes=None)
        assert machine.fault.startswith(name.removesuffix("_v2"))


@pytest.mark.parametrize("said", [OOM, "", PORT_IN_USE])
def test_a_device_that_is_lost_is_the_cause_whatever_the_log_says(machine, driver, log, said):
    driver.gpus[0].events.append((XID, 79))
    machine.evidence()
    driver.refused["nvmlEventSetWait_v2"] = pynvml.NVML_ERROR_GPU_IS_LOST
    error = cause_of_end(
        died(log(lines(READY, engine_died("x", error=said)))), machine, serving=True
    )
    assert type(error) is BenchError
    assert error.cause == "device_fault"
    assert str(error) == (
        "vllm: the device reported XID 79; "
        "the device no longer answers: nvmlEventSetWait: GPU is lost"
    )


@pytest.mark.parametrize(
    ("text", "cause", "constraint", "short_gib"),
    [
        (
            lines(
                "INFO 03-01 10:00:20 [gpu_worker.py:298] Available KV cache memory: -0.79 GiB",
                engine_died(error="ValueError: No available memory for the cache blocks."),
            ),
            "kv_cache_no_blocks",
            "kv_cache_gib",
            0.79,
        ),
        (engine_died(error=TOO_SMALL), "kv_cache_too_small", "kv_cache_gib", 1.75 - 0.37),
        (
            engine_died("init_device", error=START),
            "gpu_memory_insufficient_at_start",
            "start_memory_gib",
            10.47 - 4.1,
        ),
        (
            engine_died("load_model", error=OOM),
            "cuda_oom_load",
            "device_memory_gib",
            1.5 - 700.25 / 1024,
        ),
        (
            engine_died("profile_run", error=OOM),
            "cuda_oom_profile",
            "device_memory_gib",
            1.5 - 700.25 / 1024,
        ),
        (
            engine_died("capture_model", error=OOM),
            "cuda_oom_cudagraph",
            "device_memory_gib",
            1.5 - 700.25 / 1024,
        ),
    ],
)
def test_a_refusal_for_memory_is_graded_by_what_the_log_says_is_missing(
    machine, log, text, cause, constraint, short_gib
):
    reason = cause_of_end(died(log(text)), machine, serving=False)
    assert type(reason) is RefusedToStartError
    assert reason.cause == cause
    assert reason.excess == {constraint: pytest.approx(short_gib, abs=1e-6)}
    assert not reason.predicted
    assert reason.evidence in text


def test_a_refusal_carries_the_logs_figures_and_a_remedy_made_of_them(machine, log):
    reason = cause_of_end(died(log(START)), machine, serving=False)
    assert reason.figures["free_bytes"] == round(4.1 * GIB)
    assert reason.figures["requested_bytes"] == round(10.47 * GIB)
    assert "--gpu-memory-utilization to at most 0.35" in reason.remedy


def test_a_refusal_without_figures_is_not_graded(machine, log):
    text = engine_died(error="ValueError: No available memory for the cache blocks. Try x.")
    reason = cause_of_end(died(log(text)), machine, serving=False)
    assert (reason.cause, reason.excess) == ("kv_cache_no_blocks", {})
    assert CAUSES[reason.cause].constraint == "kv_cache_gib"


def test_whisper_is_not_told_of_vllms_options(machine, log):
    text = engine_died("load_model", error=OOM)
    reasons = {
        kind.name: cause_of_end(
            died(log(text), server=kind.name), machine, serving=False, diagnose=kind.why_it_ended
        )
        for kind in (VLLM, WHISPER)
    }
    assert "--tensor-parallel-size" in reasons["vllm"].remedy
    assert reasons["whisper"].remedy == remedy_of("cuda_oom_load", {}, "whisper")
    assert "--" not in reasons["whisper"].remedy


@pytest.mark.parametrize(
    ("serving", "kind"), [(False, RefusedToStartError), (True, OutOfMemoryError)]
)
def test_under_load_it_ran_out_of_memory_and_before_it_refused(machine, log, serving, kind):
    text = lines(READY, engine_died("execute_model", error=OOM, serving=True))
    reason = cause_of_end(died(log(text)), machine, serving=serving)
    assert type(reason) is kind
    assert reason.cause == "cuda_oom_serving"
    assert reason.excess == {"device_memory_gib": pytest.approx(1.5 - 700.25 / 1024, abs=1e-6)}


def test_a_server_that_names_memory_and_then_hangs_refused(machine, log):
    reason = cause_of_end(not_ready(log(START)), machine, serving=False)
    assert type(reason) is RefusedToStartError
    assert reason.cause == "gpu_memory_insufficient_at_start"


@pytest.mark.parametrize("end", [died, not_ready])
def test_a_silent_end_beside_a_kill_for_memory_is_the_candidates(machine, host, log, end):
    host.write("proc/vmstat", "oom_kill 6\n")
    reason = cause_of_end(end(log("")), machine, serving=False)
    assert type(reason) is RefusedToStartError
    assert reason.cause == "host_oom"
    assert reason.evidence == "the kernel killed 1 process(es) for want of memory"
    assert reason.figures["device_free_bytes"] == 10 * GIB
    assert reason.excess == {}, "nobody knows how much was missing"


def test_kills_before_the_trial_are_not_its_own(machine, log):
    reason = cause_of_end(died(log(""), returncode=-9), machine, serving=False)
    assert type(reason) is BenchError
    assert reason.cause == "engine_dead_other"
    assert str(reason) == "vllm was ended by signal 9: the process was ended by SIGKILL"


def test_a_cause_that_the_log_names_stands_before_a_kill_beside_it(machine, host, log):
    host.write("proc/vmstat", "oom_kill 6\n")
    reason = cause_of_end(died(log(PORT_IN_USE)), machine, serving=False)
    assert reason.cause == "port_in_use"


@pytest.mark.parametrize("text", ["", engine_died("load_model", error=OOM), PORT_IN_USE])
def test_a_fault_of_the_device_stands_before_every_log(machine, driver, log, text):
    driver.gpus[0].events += [(XID, 31), (XID, 79), (XID, 48)]
    reason = cause_of_end(died(log(text), server="whisper"), machine, serving=True)
    assert type(reason) is BenchError
    assert reason.cause == "device_fault"
    assert str(reason) == "whisper: the device reported XID 79, 48"


def test_an_xid_of_a_faulty_program_is_no_fault_of_the_device(machine, driver, log):
    driver.gpus[0].events.append((XID, 31))
    unnamed = cause_of_end(died(log("")), machine, serving=True)
    assert type(unnamed) is BenchError
    assert unnamed.cause == "cuda_illegal_access"
    memory = cause_of_end(died(log(START)), machine, serving=False)
    assert memory.cause == "gpu_memory_insufficient_at_start"


@pytest.mark.parametrize("end", [died, not_ready])
@pytest.mark.parametrize(
    ("text", "kind", "cause"),
    [
        (PORT_IN_USE, PortInUseError, "port_in_use"),
        (engine_died(error=RACE), ProfilingRaceError, "memory_profiling_race"),
        (
            failed("RuntimeError: CUDA error: no kernel image is available for execution"),
            EngineError,
            "unsupported_gpu",
        ),
        (failed("RuntimeError: No CUDA GPUs are available"), EngineError, "cuda_init"),
    ],
)
def test_what_the_bench_can_act_upon_has_an_error_of_its_own(machine, log, end, text, kind, cause):
    reason = cause_of_end(end(log(text)), machine, serving=False)
    assert type(reason) is kind
    assert reason.cause == cause


def test_any_other_named_cause_keeps_its_name_and_its_line(machine, log):
    reason = cause_of_end(died(log(NO_MODEL)), machine, serving=False)
    assert type(reason) is BenchError
    assert reason.cause == "model_not_found_or_auth"
    assert str(reason).startswith("vllm exited with 1: ")
    assert str(reason).endswith(
        "a/b is not a valid model identifier listed on 'https://example.org'"
    )


@pytest.mark.parametrize("text", ["", READY, NO_MODEL])
def test_a_server_that_is_never_healthy_and_names_no_memory_hangs(machine, log, text):
    reason = cause_of_end(not_ready(log(text), server="whisper"), machine, serving=False)
    assert type(reason) is BenchError
    assert reason.cause == "timeout_hang"
    assert str(reason).startswith("whisper was not healthy after 600 s")


@pytest.mark.parametrize("returncode", [0, -15])
def test_a_server_that_left_in_good_health_is_the_benchs_fault(machine, log, returncode):
    reason = cause_of_end(died(log(READY), returncode=returncode), machine, serving=True)
    assert type(reason) is BenchError
    assert reason.cause == "bench"


def test_an_end_of_which_nothing_is_known_is_said_as_it_was_noticed(machine, log):
    reason = cause_of_end(died(log(""), returncode=None), machine, serving=True)
    assert type(reason) is BenchError
    assert str(reason) == "vllm is gone"


@pytest.mark.parametrize("name", [None, "never-written.log"])
def test_a_log_that_is_not_there_says_nothing(machine, tmp_path, name):
    missing = None if name is None else tmp_path / name
    reason = cause_of_end(died(missing), machine, serving=False)
    assert type(reason) is BenchError
    assert str(reason) == "vllm exited with 1: the process exited with 1"


def test_a_log_that_is_not_all_text_is_read_all_the_same(machine, tmp_path):
    path = tmp_path / "server.log"
    path.write_bytes(b"\xc3\x28 \x80 half a sign\r\n" + START.encode())
    reason = cause_of_end(died(path), machine, serving=False)
    assert reason.cause == "gpu_memory_insufficient_at_start"


def test_a_log_is_read_as_its_server_means_it(machine, log):
    def diagnose(text, ended, evidence):
        read.append((list(text), ended.returncode, evidence.free_bytes))
        return Diagnosis(cause="cuda_oom_load", evidence="no room", remedy="take less")

    read = []
    error = died(log("one\ntwo\n"), server="embedder", returncode=3)
    reason = cause_of_end(error, machine, serving=False, diagnose=diagnose)
    assert read == [(["one\n", "two\n"], 3, 10 * GIB)]
    assert type(reason) is RefusedToStartError
    assert (reason.cause, reason.evidence) == ("cuda_oom_load", "no room")
    assert reason.remedy == "take less"


def test_a_server_that_is_not_ready_did_not_end(machine, log):
    def diagnose(text, ended, evidence):
        read.append(ended)
        return Diagnosis(cause="unknown", evidence="")

    read = []
    reason = cause_of_end(not_ready(log("")), machine, serving=False, diagnose=diagnose)
    assert read == [None]
    assert reason.cause == "timeout_hang"
