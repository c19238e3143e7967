"""Why did it die? Made-up logs of every cause, and published ones where they are at hand."""

from __future__ import annotations

import itertools
import json
import string
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.causes import CAUSES, cause_named
from objectives.diagnosis.decision import DeviceEvidence, Ended
from objectives.diagnosis.diagnosis import diagnose
from tests.corpus import corpus_folder
from tests.objectives.diagnosis.failing_logs import (
    CPU_KV,
    LOADED,
    MEMORY,
    OOM,
    OTHERS,
    PREFIXES,
    READY,
    SIZED,
    START,
    TOO_SMALL,
    engine_died,
    failed,
    lines,
    traceback,
)
from tests.objectives.diagnosis.healthy_logs import BANNER, DEAD, HEALTHY, STALL

FAILING = (*MEMORY, *OTHERS)
KILLED = Ended(returncode=-9)


def gib(size):
    return round(size * (1 << 30))


def of(text, **known):
    return diagnose(text.splitlines(keepends=True), **known)


@pytest.mark.parametrize(
    ("cause", "text"), [case[1:] for case in FAILING], ids=[case[0] for case in FAILING]
)
def test_each_way_to_fail_has_its_cause(cause, text):
    assert of(text).cause == cause


@pytest.mark.parametrize(("name", "text"), HEALTHY, ids=[case[0] for case in HEALTHY])
def test_a_healthy_log_is_ok_however_it_frightens(name, text):
    assert of(text).cause == "ok", name


@pytest.mark.parametrize(("name", "form"), PREFIXES, ids=[case[0] for case in PREFIXES])
def test_what_stands_before_the_lines_changes_no_cause(name, form):
    wrong = []
    for case, cause, text in FAILING:
        log = "\n".join(form.format(line) for line in text.split("\n")) if text else ""
        found = of(log)
        if found.cause != cause or found.evidence not in log:
            wrong.append((case, cause, found.cause))
    assert wrong == []


def test_docker_s_json_files_are_read():
    log = [
        json.dumps({"log": f"{line}\n", "stream": "stderr"}) for line in failed(START).split("\n")
    ]
    found = diagnose(log)
    assert found.cause == "gpu_memory_insufficient_at_start"
    assert found.evidence == log[found.line - 1]


def test_every_cause_is_met_by_some_test():
    told = {name for name, cause in CAUSES.items() if "log" in cause.told_by}
    assert {case[1] for case in FAILING} | {"ok"} == told
    assert len(told) == 22


@pytest.mark.parametrize("text", [case[2] for case in FAILING if case[1] != "unknown"])
def test_the_evidence_is_a_line_of_the_log_as_it_stands_there(text):
    found = of(text)
    assert found.evidence == text.split("\n")[found.line - 1]
    assert found.remedy


class TestTheRootIsNamedAndNotTheLastLine:
    def test_the_exception_of_the_engine_not_what_its_client_says(self):
        found = of(failed("KeyError: 'zebra'"))
        assert found.evidence.endswith("KeyError: 'zebra'")

    def test_the_worker_s_error_not_the_engine_s_copy_of_it(self):
        tag = "(Worker_TP1 pid=9) ERROR 03-01 10:00:29 [multiproc_executor.py:7] "
        worker = traceback("profile_run", error=OOM, tag=tag)
        copy = engine_died("get_response", error=f"RuntimeError: Worker failed with error '{OOM}'")
        found = of(lines(f"{tag}WorkerProc hit an exception.", worker, copy))
        assert (found.cause, found.line) == ("cuda_oom_profile", 5)

    def test_workers_that_speak_at_once_are_kept_apart(self):
        first = traceback("capture_model", error=OOM, tag="(Worker_TP0 pid=8) ").split("\n")
        second = traceback("load_model", error="ValueError: x", tag="(Worker_TP1 pid=9) ")
        mixed = list(itertools.chain(*zip(first, second.split("\n"), strict=True)))
        assert diagnose(mixed).cause == "cuda_oom_cudagraph"

    def test_a_phase_told_later_places_an_earlier_line(self):
        shim = f"[rank0]:[E301 10:00:29.1 shim_common.cpp:5] Exception in aoti_torch: {OOM}"
        found = of(lines(shim, engine_died("determine_available_memory", error=OOM)))
        assert (found.cause, found.line) == ("cuda_oom_profile", 1)

    def test_eager_engines_capture_no_graphs(self):
        eager = "INFO 03-01 10:00:00 [config.py:3] Cudagraph is disabled under eager mode"
        assert of(lines(LOADED, SIZED, OOM)).cause == "cuda_oom_cudagraph"
        assert of(lines(eager, LOADED, SIZED, OOM)).cause == "cuda_oom_profile"

    def test_source_code_in_a_traceback_says_nothing(self):
        code = '    raise ValueError("No available memory for the cache blocks. "'
        found = of(lines('  File "/x/worker.py", line 5, in check', code, "ValueError: zebra"))
        assert found.cause == "engine_dead_other"

    def test_of_several_runs_the_last_that_says_anything(self):
        first = lines(BANNER, engine_died("load_model", error=OOM))
        second = lines(BANNER, failed(TOO_SMALL))
        assert of(lines(first, second)).cause == "kv_cache_too_small"
        assert of(lines(first, BANNER, LOADED)).cause == "cuda_oom_load"
        assert of(lines(first, second, BANNER, LOADED, SIZED, READY)).cause == "ok"

    def test_a_document_tells_the_failure_first_and_then_what_helped(self):
        told = lines("### It died", "```", START, "```", "With 0.3:", "```", SIZED, READY, "```")
        assert of(told).cause == "gpu_memory_insufficient_at_start"


class TestFiguresOfTheLine:
    def test_of_a_cache_that_is_too_small(self):
        assert of(failed(TOO_SMALL)).figures == {
            "max_model_len": 32_768,
            "needed_bytes": gib(1.75),
            "available_bytes": gib(0.37),
            "estimated_max_model_len": 6_976,
        }
        assert "--max-model-len to 6976" in of(failed(TOO_SMALL)).remedy

    def test_of_a_sentence_that_somebody_wrapped(self):
        wrapped = [
            "ValueError: To serve at least one request with the model's max seq len (32768),",
            "1.75 GiB KV cache is needed, which is larger than the available KV cache",
            "memory (0.37 GiB). Based on the available memory, the estimated",
            "maximum model length is 6976. Try increasing `gpu_memory_utilization`",
        ]
        found = diagnose(wrapped)
        assert found.figures == of(failed(TOO_SMALL)).figures
        assert (found.line, found.evidence) == (1, wrapped[0])

    def test_of_a_terminal_that_breaks_inside_words(self):
        half = START.index("utilization (0.9") + 4
        assert diagnose([START[:half], START[half:]]).figures["requested_bytes"] == gib(10.47)

    def test_of_the_start_check(self):
        found = of(failed(START))
        assert found.figures == {
            "device": "cuda:0",
            "free_bytes": gib(4.1),
            "total_bytes": gib(11.63),
            "utilization": 0.9,
            "requested_bytes": gib(10.47),
        }
        assert "at most 0.35" in found.remedy

    def test_of_an_allocation_that_was_refused(self):
        assert of(OOM).figures == {
            "tried_bytes": gib(1.5),
            "total_bytes": gib(11.63),
            "free_bytes": gib(700.25 / 1024),
            "own_bytes": gib(10.9),
        }

    def test_a_cache_without_blocks_carries_what_was_left(self):
        left = "INFO 03-01 10:00:20 [gpu_worker.py:298] Available KV cache memory: -0.79 GiB"
        found = of(lines(left, failed("ValueError: No available memory for the cache blocks.")))
        assert found.figures == {"available_bytes": gib(-0.79)}

    def test_the_cpu_backend_tells_what_is_missing(self):
        none_left = of(failed(CPU_KV.format("9.1", "-0.42/1.56"))).figures
        assert none_left["available_bytes"] == gib(-0.42)
        full = of(failed(CPU_KV.format("2.1", "3.4/6.2"))).figures
        assert (full["needed_bytes"], full["free_bytes"]) == (gib(3.4), gib(2.1))

    def test_bytes_of_old_versions_are_no_gib(self):
        race = "AssertionError: Error in memory profiling. Initial free memory {}, current free {}."
        assert of(race.format(1 << 33, f"memory {9 << 30}")).figures == {
            "initial_free_bytes": gib(8),
            "current_free_bytes": gib(9),
        }

    def test_the_port(self):
        found = of(
            "ERROR:    [Errno 98] error while attempting to bind on address ('::', 8000): address"
            " already in use"
        )
        assert found.figures["port"] == 8_000
        assert "port 8000" in found.remedy


class TestHowTheProcessEnded:
    def test_a_kill_alone_is_no_want_of_memory(self):
        found = of(lines(LOADED), ended=KILLED)
        assert (found.cause, found.line) == ("engine_dead_other", 0)
        assert "SIGKILL" in found.evidence

    def test_a_kill_that_the_kernel_counted_is(self):
        found = of(LOADED, ended=KILLED, evidence=DeviceEvidence(oom_kills=1))
        assert found.cause == "host_oom"
        assert found.figures["oom_kills"] == 1

    def test_a_shell_s_137_means_the_same(self):
        assert Ended(returncode=137).signal == 9
        assert of(READY, ended=Ended(returncode=137)).cause == "engine_dead_other"

    def test_whom_we_asked_to_end_is_ok(self):
        asked = Ended(returncode=-9, was_asked=True)
        assert of(lines(LOADED, SIZED, READY, DEAD), ended=asked).cause == "ok"
        assert of("", ended=asked).cause == "ok"

    def test_unless_a_cause_speaks_before(self):
        asked = Ended(returncode=-15, was_asked=True)
        log = lines(READY, engine_died("execute_model", error=OOM, serving=True))
        assert of(log, ended=asked).cause == "cuda_oom_serving"

    def test_who_left_a_healthy_log_by_itself_did_not_leave_well(self):
        found = of(lines(LOADED, SIZED, READY), ended=Ended(returncode=1))
        assert found.cause == "engine_dead_other"
        assert found.figures["returncode"] == 1

    def test_somebody_else_s_order_is_no_failure_of_a_server(self):
        assert of(lines(LOADED, SIZED, READY), ended=Ended(returncode=-15)).cause == "ok"
        assert of(LOADED, ended=Ended(returncode=-15)).cause == "engine_dead_other"

    def test_the_log_s_own_cause_stands_above_all_of_this(self):
        seen = DeviceEvidence(xids=(31,), oom_kills=2)
        assert of(failed(START), ended=KILLED, evidence=seen).cause.startswith("gpu_memory")

    @pytest.mark.parametrize("xid", [13, 31, 43, 45, 68, 109])
    def test_an_application_s_xid_names_a_nameless_death(self, xid):
        found = of(failed("KeyError: 7"), evidence=DeviceEvidence(xids=(xid,)))
        assert (found.cause, found.figures["xid"]) == ("cuda_illegal_access", xid)

    def test_a_device_s_xid_is_neither_memory_nor_the_program(self):
        found = of("", ended=KILLED, evidence=DeviceEvidence(xids=(79,)))
        assert (found.cause, found.figures["xid"]) == ("engine_dead_other", 79)

    def test_a_server_that_stalls_with_requests_hangs_and_an_idle_one_does_not(self):
        busy = (
            "INFO 03-01 10:01:00 [loggers.py:9] Engine 000: Avg prompt throughput: 0.0 tokens/s,"
            " Avg generation throughput: 0.0 tokens/s, Running: 3 reqs, Waiting: 0 reqs"
        )
        idle = busy.replace("Running: 3", "Running: 0")
        answer = 'INFO:     10.0.0.1:5 - "POST /v1/completions HTTP/1.1" 200 OK'
        assert of(lines(READY, *[STALL, busy] * 3)).cause == "timeout_hang"
        assert of(lines(READY, *[STALL, idle] * 3)).cause == "ok"
        assert of(lines(READY, *[STALL, busy] * 3, answer)).cause == "ok"


class TestLogsOfAnySize:
    def test_it_is_read_once_and_in_one_pass(self):
        log = iter(failed(START).split("\n"))
        assert diagnose(log).cause == "gpu_memory_insufficient_at_start"
        assert next(log, None) is None

    def test_what_is_kept_does_not_grow_with_the_log(self):
        tracemalloc = pytest.importorskip("tracemalloc")
        words = map("".join, itertools.product(string.ascii_lowercase, repeat=3))
        frame = '(Worker pid={}) ERROR 03-01 10:05:00 [x.py:7]   File "{}.py", line 7, in x'
        kept_bytes = []

        def log():
            yield READY
            yield from (frame.format(n, "x") for n in range(300))
            yield from (f"error {word}" for word in itertools.islice(words, 8_500))
            tracemalloc.start()  # all that may be remembered is full by now
            for n, word in enumerate(itertools.islice(words, 1_000), 300):
                yield f'INFO:     10.0.0.1:{n} - "POST /v1/completions HTTP/1.1" 200 OK\n'
                yield frame.format(n, word)
                yield f"ERROR 03-01 10:05:00 [serving.py:{n}] ValueError: {word} is wrong\n"
            kept_bytes.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.stop()

        assert diagnose(log()).cause == "ok"
        assert kept_bytes[0] < 75_000  # what is known of the last processes

    def test_a_line_of_megabytes_is_no_trouble(self):
        dump = f"ERROR 03-01 10:05:00 [dump_input.py:68] Dumping input data {'x' * 2_000_000}"
        found = of(lines(READY, dump, engine_died("execute_model", error=OOM, serving=True)))
        assert found.cause == "cuda_oom_serving"
        assert len(found.evidence) < 5_000


LINES = st.sampled_from(sorted({line for case in FAILING for line in case[2].split("\n")}))
JUNK = ["", *'\r\n\0\u2028\ud800İẞ٣²"{([|>-', "\x1b[0m", "```", "9" * 400]
TORN = st.builds(
    lambda line, other, tenth, junk: (
        line[: len(line) * tenth // 10] + junk + other[len(other) * tenth // 10 :]
    ),
    LINES,
    LINES,
    st.integers(1, 9),
    st.sampled_from(JUNK),
)


@settings(max_examples=90, deadline=None)
@given(st.lists(LINES | TORN, max_size=25))
def test_whatever_a_log_holds_some_cause_is_named_and_its_line_is_there(log):
    found = diagnose(log)
    assert "log" in CAUSES[found.cause].told_by
    assert found.evidence in (log[found.line - 1] if found.line else "")
    json.dumps(asdict(found))


@pytest.fixture(scope="module")
def published():
    folder = corpus_folder()
    if folder is None:
        pytest.skip("no corpus: set GAS_CORPUS, or put it into ../shared/corpus")
    text = (folder / "vllm_logs.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_published_logs_are_diagnosed_right_and_all_for_want_of_memory(published):
    found = [(record, of(record["text"])) for record in published]
    wrong = [(record["id"], seen.cause) for record, seen in found if seen.cause != record["label"]]
    about_memory = [pair for pair in wrong if cause_named(pair[0].rsplit("-", 1)[0]).is_memory]
    assert about_memory == []
    assert len(wrong) <= 0.05 * len(published), wrong


def test_published_logs_hold_the_evidence_as_it_stands(published):
    for record in published:
        found = of(record["text"])
        if found.line:
            assert found.evidence in record["text"].splitlines()[found.line - 1], record["id"]
