"""Lines that are no cause: how far a start came, that it died, that it was asked to stop."""

from __future__ import annotations

import pytest

from objectives.causes import CAUSES
from objectives.diagnosis.progress import (
    CUDAGRAPH,
    LOAD,
    PHASE_OF_FRAME,
    PHASES,
    PROFILE,
    SERVING,
    Death,
    Stage,
    available_bytes,
    death_of,
    earlier_of,
    figures_of_refusal,
    is_alive,
    is_asked,
    is_eager,
    is_fallback,
    is_preemption,
    is_secondary,
    is_stall,
    is_stopping,
    phase_in_message,
    phase_of_stage,
    running_requests,
    stage_of,
    tells_signal,
)
from objectives.diagnosis.rules import OUT_OF_DEVICE_MEMORY
from tests.objectives.diagnosis.failing_logs import OOM

RATES = (
    "Engine 000: Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: {} tokens/s,"
    " Running: {} reqs, Waiting: 0 reqs"
)
ANSWER = '10.0.0.1:5 - "POST /v1/completions HTTP/1.1" {}'


class TestTheStage:
    @pytest.mark.parametrize(
        ("text", "stage"),
        [
            ("vLLM API server version 0.11.0", Stage.STARTED),
            ("vLLM server version 0.5.0", Stage.STARTED),
            ("Initializing a V1 LLM engine (v0.11.0) with config: x", Stage.STARTED),
            ("Starting to load model a/b...", Stage.LOADING),
            ("Loading model from scratch...", Stage.LOADING),
            ("Loading safetensors checkpoint shards:  50% Completed | 2/4", Stage.LOADING),
            ("Model loading took 5.2 GiB and 4.0 seconds", Stage.LOADED),
            ("Loading model weights took 5.2 GB", Stage.LOADED),
            ("model weights take 5.20GiB; non_torch_memory takes 0.1GiB", Stage.LOADED),
            ("Profiling CUDA graph memory: PIECEWISE=35", Stage.PROFILING_GRAPHS),
            ("Estimated CUDA graph memory: 0.4 GiB total", Stage.PROFILED_GRAPHS),
            ("Available KV cache memory: 3.2 GiB", Stage.SIZED),
            ("GPU KV cache size: 6,976 tokens", Stage.SIZED),
            ("# GPU blocks: 120, # CPU blocks: 512", Stage.SIZED),
            ("Capturing CUDA graph shapes:  40%", Stage.CAPTURING),
            ("Capturing cudagraphs for decoding", Stage.CAPTURING),
            ("Capturing the model for CUDA graphs", Stage.CAPTURING),
            ("Graph capturing finished in 9 secs, took 0.4 GiB", Stage.CAPTURED),
            ("init engine (profile, create kv cache, warmup model) took 20 s", Stage.ENGINE_UP),
            ("Application startup complete.", Stage.SERVING),
            ("Uvicorn running on http://0.0.0.0:8000", Stage.SERVING),
            (RATES.format("0.0", 0), Stage.SERVING),
            ("Processed prompts: 100%|####| 8/8", Stage.SERVING),
            (ANSWER.format("200 OK"), Stage.SERVING),
        ],
    )
    def test_is_said_by_a_line_of_its_own(self, text, stage):
        assert stage_of(text.lower()) is stage

    @pytest.mark.parametrize(
        "text",
        [
            ANSWER.format("404 Not Found"),
            "Processed prompts:  50%|##  | 4/8",
            "# GPU blocks: 120",
            "Waiting for application startup.",
            "Model loading failed",
            "",
        ],
    )
    def test_is_not_said_by_what_only_sounds_like_it(self, text):
        assert stage_of(text.lower()) is None

    def test_comes_after_the_one_before(self):
        assert list(Stage) == sorted(Stage)
        assert Stage.NOTHING < Stage.LOADING < Stage.SIZED < Stage.CAPTURING < Stage.SERVING


class TestADeath:
    @pytest.mark.parametrize(
        "text",
        [
            "EngineCore failed to start.",
            "EngineCore hit an exception: Traceback",
            "EngineCore encountered a fatal error.",
            "WorkerProc hit an exception.",
            "WorkerProc failed to start.",
            "Error executing method 'load_model'. This might cause deadlock",
            "Exception in worker VllmWorkerProcess while processing method load_model",
            "Engine background task failed",
            "Dumping input data for V1 LLM engine (v0.11.0)",
            "terminate called after throwing an instance of 'c10::Error'",
            "Process SpawnProcess-1:",
        ],
    )
    def test_may_stand_before_its_traceback(self, text):
        assert death_of(text.lower()) is Death.BEFORE_TRACEBACK

    @pytest.mark.parametrize(
        "text",
        [
            "RuntimeError: Engine core initialization failed. See root cause above.",
            "RuntimeError: Engine process failed to start.",
            "Exception: WorkerProc process failed during engine core initialization",
            "Fatal Python error: Aborted",
            "./serve.sh: line 3: 8 Segmentation fault",
            "Aborted (core dumped)",
            "Bus error",
            "*** SIGABRT received at time=1 on cpu 3 ***",
            "*** SIGSEGV received at time=1 on cpu 3 ***",
            "ERROR: Worker VllmWorkerProcess pid 9 died with exit code -15",
            "The worker died or was killed while executing a task by an unexpected system error",
            "The actor died unexpectedly before finishing this task.",
        ],
    )
    def test_may_stand_after_its_traceback(self, text):
        assert death_of(text.lower()) is Death.AFTER_TRACEBACK

    @pytest.mark.parametrize(
        ("text", "death"),
        [
            ("Engine core proc EngineCore_0 died unexpectedly", Death.UNEXPECTED),
            ("Engine process (pid 7) died, exit code: -9", Death.UNEXPECTED),
            ("Process completed with exit code 137.", Death.UNEXPECTED),
            ("a worker ended with exitcode 137", Death.UNEXPECTED),
            ("vllm-1 exited (137)", Death.UNEXPECTED),
            ("exit code: -9 (SIGKILL)", Death.UNEXPECTED),
            ("EngineDeadError: EngineCore encountered an issue.", Death.ECHO),
            ("AsyncLLM output_handler failed.", Death.ECHO),
            ("async_llm output_handler failed.", Death.ECHO),
            ("Background loop has errored already.", Death.ECHO),
        ],
    )
    def test_may_be_what_an_ordered_stop_looks_like_too(self, text, death):
        assert death_of(text.lower()) is death

    @pytest.mark.parametrize(
        "text",
        ["EngineCore started.", "exit code 0", "the fault is mine", "SIGTERM received", ""],
    )
    def test_is_not_what_happens_every_day(self, text):
        assert death_of(text.lower()) is None


class TestAStop:
    @pytest.mark.parametrize(
        "text",
        [
            "[shutdown] EngineCore: trigger received signal=SIGTERM",
            "shutdown by signal=SIGTERM",
            "shutdown by signal=SIGINT",
            "Received SIGTERM, draining",
            "Received SIGINT",
            "Received signal 15",
            "Caught signal 2",
            "KeyboardInterrupt: MQLLMEngine terminated",
            "Keyboard interrupt",
            "[shutdown] API server: shutdown triggered",
            "[shutdown] API server: stopping engine client",
            "[shutdown] API server: engine client stopped",
            "systemd[1]: Stopping vllm.service...",
            "Gracefully shutting down",
        ],
    )
    def test_was_ordered_where_somebody_says_so(self, text):
        assert is_asked(text.lower())

    @pytest.mark.parametrize(
        "text",
        ["Shutting down", "signal handlers installed", "stop token ids", "uninterrupted", ""],
    )
    def test_was_not_ordered_where_nobody_does(self, text):
        assert not is_asked(text.lower())

    @pytest.mark.parametrize(
        "text",
        [
            "Shutting down",
            "Waiting for application shutdown.",
            "Application shutdown complete.",
            "Finished server process [1]",
            "Stopping vLLM",
            "Stopping server",
            "^CShutting down FastAPI HTTP server.",
        ],
    )
    def test_is_what_the_line_begins_with(self, text):
        assert is_stopping(text.lower())
        assert not is_stopping(f"why is it {text}".lower()) or "FastAPI" in text

    def test_is_not_the_start_of_another(self):
        assert not is_stopping("started server process [1]")


class TestAnExceptionThatReportsAnother:
    @pytest.mark.parametrize(
        "text",
        [
            "Exception: engine dead error",
            "EngineDeadError: EngineCore encountered an issue.",
            "RuntimeError: See the root cause above.",
            "RuntimeError: Engine core initialization failed.",
            "RuntimeError: Engine process failed to start",
            "RuntimeError: Worker failed with error 'x'",
            "RuntimeError: a background process died",
            "RuntimeError: See stack trace (above)",
            "Exception: the stacktrace is in the log",
            "ray.exceptions.RayTaskError(ValueError): ray::W",
            "ray.exceptions.ActorDiedError: gone",
            "ray.exceptions.ActorUnavailableError: gone",
            "ray.exceptions.WorkerCrashedError: gone",
            "asyncio.exceptions.CancelledError: by a scope",
            "RuntimeError: Background loop has errored already.",
            "RuntimeError: Executor failed.",
            "RuntimeError: Connection closed",
            "RuntimeError: Connection reset by a peer",
            "KeyboardInterrupt",
            "SystemExit: 1",
            "EOFError",
            "BrokenPipeError: [Errno 32] Broken pipe",
            "ConnectionResetError: [Errno 104]",
            "RuntimeError: cancelled",
        ],
    )
    def test_is_secondary(self, text):
        assert is_secondary(text.lower())

    @pytest.mark.parametrize(
        "text",
        [
            "ValueError: zebra",
            "RuntimeError: EOFError is what I got",
            "RuntimeError: cancelled by a fault",
            "ConnectionRefusedError: [Errno 111]",
        ],
    )
    def test_is_not_whatever_has_words_of_its_own(self, text):
        assert not is_secondary(text.lower())


class TestThePhase:
    @pytest.mark.parametrize(
        ("first", "second", "phase"),
        [
            (None, None, None),
            (None, LOAD, LOAD),
            (SERVING, LOAD, LOAD),
            (LOAD, PROFILE, PROFILE),
            (PROFILE, CUDAGRAPH, CUDAGRAPH),
            (SERVING, CUDAGRAPH, CUDAGRAPH),
            (SERVING, SERVING, SERVING),
        ],
    )
    def test_of_two_in_one_traceback_is_the_same_in_either_order(self, first, second, phase):
        assert earlier_of(first, second) == phase
        assert earlier_of(second, first) == phase

    @pytest.mark.parametrize(
        ("function", "phase"),
        [
            ("load_model", LOAD),
            ("create_weights", LOAD),
            ("init_device", LOAD),
            ("determine_available_memory", PROFILE),
            ("determine_num_available_blocks", PROFILE),
            ("initialize_kv_cache", PROFILE),
            ("kernel_warmup", PROFILE),
            ("_dummy_sampler_run", PROFILE),
            ("capture_model", CUDAGRAPH),
            ("profile_cudagraph_memory", CUDAGRAPH),
            ("execute_model", SERVING),
            ("run_busy_loop", SERVING),
            ("transcribe", SERVING),
        ],
    )
    def test_of_a_frame_is_that_of_its_function(self, function, phase):
        assert PHASE_OF_FRAME[function] == phase

    def test_of_a_frame_is_a_want_of_memory_or_nothing(self):
        assert set(PHASE_OF_FRAME.values()) == {LOAD, PROFILE, CUDAGRAPH, SERVING}
        assert all(CAUSES[phase].is_oom for phase in PHASE_OF_FRAME.values())
        assert "_dummy_run" not in PHASE_OF_FRAME  # runs in every phase

    @pytest.mark.parametrize(
        ("text", "phase"),
        [
            ("Exception in worker x while processing method load_model: CUDA", LOAD),
            ("Error executing method 'determine_num_available_blocks'. This", PROFILE),
            ("Error executing method start_worker_execution_loop", SERVING),
            ("Error executing method 'zebra'", None),
            ("CUDA out of memory occurred when warming up sampler with 256", PROFILE),
            ("Failed to load model - not enough GPU memory", LOAD),
            ("load_model", None),
        ],
    )
    def test_may_stand_beside_the_error(self, text, phase):
        assert phase_in_message(text) == phase

    @pytest.mark.parametrize(
        ("stage", "phase", "eager_phase"),
        [
            (Stage.NOTHING, LOAD, LOAD),
            (Stage.STARTED, LOAD, LOAD),
            (Stage.LOADING, LOAD, LOAD),
            (Stage.LOADED, PROFILE, PROFILE),
            (Stage.PROFILING_GRAPHS, CUDAGRAPH, PROFILE),
            (Stage.PROFILED_GRAPHS, PROFILE, PROFILE),
            (Stage.SIZED, CUDAGRAPH, PROFILE),
            (Stage.CAPTURING, CUDAGRAPH, PROFILE),
            (Stage.CAPTURED, PROFILE, PROFILE),
            (Stage.ENGINE_UP, SERVING, SERVING),
            (Stage.SERVING, SERVING, SERVING),
        ],
    )
    def test_of_a_log_without_frames_is_that_of_its_last_stage(self, stage, phase, eager_phase):
        assert phase_of_stage(stage, eager=False) == phase
        assert phase_of_stage(stage, eager=True) == eager_phase

    def test_of_every_stage_is_known(self):
        assert all(CAUSES[phase_of_stage(stage, eager=False)].is_oom for stage in Stage)


class TestFigures:
    def test_of_a_refused_allocation_are_bytes_of_whatever_unit(self):
        refusal = OOM.replace("1.50 GiB", "512.00 KiB").replace("11.63 GiB", "12 GB")
        assert figures_of_refusal(OUT_OF_DEVICE_MEMORY.search(refusal)) == {
            "tried_bytes": 512 << 10,
            "total_bytes": 12 << 30,
            "free_bytes": 700 * (1 << 20) + (1 << 18),
            "own_bytes": round(10.9 * (1 << 30)),
        }

    def test_of_a_refusal_without_words_are_none(self):
        match = OUT_OF_DEVICE_MEMORY.search("RuntimeError: NPU out of memory.")
        assert figures_of_refusal(match) == {}

    @pytest.mark.parametrize(
        ("text", "size_bytes"),
        [
            ("Available KV cache memory: 3.25 GiB", 13 << 28),
            ("Available KV cache memory: -0.5 GiB", -(1 << 29)),
            ("Available KV cache memory: 4GiB", 4 << 30),
            ("Available KV cache memory: much", None),
            ("the KV cache memory: 3.25 GiB", None),
            ("", None),
        ],
    )
    def test_of_the_kv_cache_may_be_negative(self, text, size_bytes):
        assert available_bytes(text) == size_bytes

    def test_of_the_requests_in_progress(self):
        assert running_requests(RATES.format("9.5", 12)) == 12
        assert running_requests("Running: all reqs") is None
        assert running_requests("12 reqs") is None


class TestASignal:
    @pytest.mark.parametrize(
        "line",
        [
            "worker vllmworkerprocess pid 9 died, exit code: -11",
            "vllm-1 exited with code 137",
            "exit status 139",
            "died with <signals.sigsegv: 11>",
            "process returned -6",
        ],
    )
    def test_is_told_by_a_code_and_is_a_death(self, line):
        assert tells_signal(line)
        assert death_of(line) in {Death.UNEXPECTED, Death.AFTER_TRACEBACK}

    @pytest.mark.parametrize(
        "line", ["exit code: -15", "exited with code 143", "exit code 1", "line 137, in exit"]
    )
    def test_is_none_where_somebody_asked_or_no_signal_ended_it(self, line):
        assert not tells_signal(line)

    def test_outlives_what_only_reports_another_error(self):
        assert is_secondary("calledprocesserror: command 'x' returned non-zero exit status 1.")
        assert not is_secondary("calledprocesserror: command 'x' died with <signals.sigsegv: 11>.")


@pytest.mark.parametrize(
    ("line", "falls_back"),
    [
        ("UserWarning: FP16 is not supported on CPU; using FP32 instead", True),
        ("UserWarning: Performing inference on CPU when CUDA is available", True),
        ("CUDA is not available, using CPU", True),
        ("No GPU found: falling back to the CPU", True),
        ("Device set to use cpu", True),
        ("GPU KV cache usage: 0.1%, CPU KV cache usage: 0.0%", False),
        ("the CPU has 16 cores", False),
        ("Device set to use cuda:0", False),
    ],
)
def test_a_fallback_is_said_by_words_of_both_devices(line, falls_back):
    assert is_fallback(line) is falls_back


def test_every_stage_of_a_start_that_is_not_over_has_words():
    assert Stage.NOTHING not in PHASES
    assert {stage for stage in Stage if stage not in PHASES} == {
        Stage.NOTHING,
        Stage.SIZED,  # a healthy excerpt may end here
        Stage.CAPTURED,
        Stage.ENGINE_UP,
        Stage.SERVING,
    }


class TestSignsOfLife:
    def test_a_stall_is_a_wait_of_processes_for_one_another(self):
        assert is_stall("no available shared memory broadcast block found in 60 seconds.")
        assert is_stall("no available block found in 60 second.")
        assert is_stall("waiting for baton of a compilation")
        assert not is_stall("shared memory broadcast block of 60 mib")

    def test_a_server_lives_that_answers_or_generates(self):
        assert is_alive(ANSWER.format("200 OK"))
        assert is_alive(RATES.format("9.5", 3))
        assert not is_alive(RATES.format("0.0", 3))
        assert not is_alive(ANSWER.format("500 Internal Server Error"))

    @pytest.mark.parametrize(
        "text",
        [
            "Sequence group 7 is preempted by PreemptionMode.RECOMPUTE mode because",
            "Preempting request cmpl-1",
            "Waiting: 0 reqs, Preemptions: 3",
        ],
    )
    def test_a_preemption_is_one_that_happened(self, text):
        assert is_preemption(text)

    @pytest.mark.parametrize("text", ["Waiting: 0 reqs, Preemptions: 0", "preemption_mode=None"])
    def test_a_preemption_that_did_not_happen_is_none(self, text):
        assert not is_preemption(text)

    @pytest.mark.parametrize(
        "text",
        [
            "with config: enforce_eager=True, kv_cache_dtype=auto",
            "non-default args: {'enforce_eager': True}",
            "Cudagraph is disabled under eager mode",
            "Enforce eager set, overriding optimization level to -O0",
        ],
    )
    def test_an_eager_engine_says_so_in_one_of_these_ways(self, text):
        assert is_eager(text)

    def test_an_engine_that_captures_says_that_too(self):
        assert not is_eager("with config: enforce_eager=False")
        assert not is_eager("consider enforce_eager if memory is short")
