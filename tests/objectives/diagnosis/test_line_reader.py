"""What each line adds to what is known of a run."""

from __future__ import annotations

import pytest

from objectives.diagnosis.line_reader import EVIDENCE_MOST, Notes, Read
from objectives.diagnosis.progress import Stage
from objectives.diagnosis.rules import Rank
from objectives.diagnosis.server_run import KEPT
from tests.objectives.diagnosis.failing_logs import (
    LOADED,
    OOM,
    READY,
    SIZED,
    START,
    TOO_SMALL,
    engine_died,
    traceback,
)
from tests.objectives.diagnosis.healthy_logs import API, BANNER, DEAD, STALL

ERROR = "ERROR 03-01 10:00:01 [x.py:7] "
INFO = "INFO 03-01 10:00:01 [x.py:7] "
WARNING = "WARNING 03-01 10:00:01 [x.py:7] "
ENGINE = "(EngineCore_DP0 pid=41) "
DIED = "EngineCore encountered a fatal error."
GONE = "RuntimeError: Engine core initialization failed. See root cause above."
NO_GPU = "RuntimeError: No CUDA GPUs are available"
ANSWERED = 'INFO:     10.0.0.1:5 - "POST /v1/completions HTTP/1.1" 200 OK'
REFUSED = 'INFO:     10.0.0.1:5 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error'
BUSY = f"{INFO}Avg generation throughput: 9.5 tokens/s, Running: 3 reqs, Waiting: 0 reqs"


def noted(*parts):
    """What is known after these lines."""
    notes = Notes()
    for number, line in enumerate("\n".join(parts).split("\n"), 1):
        notes.take(Read.of(number, line))
    notes.finish_sentence()
    return notes


def run_of(*parts):
    return noted(*parts).run


def findings(*parts):
    return [(one.cause, one.spot.line) for one in run_of(*parts).findings]


def line_of(spot):
    return None if spot is None else spot.line


class TestALineAsItIsRead:
    def test_keeps_its_place_and_how_it_stands_there(self):
        read = Read.of(7, f"{ENGINE}{ERROR}ValueError: Zebra")
        assert (read.spot.line, read.spot.evidence) == (7, f"{ENGINE}{ERROR}ValueError: Zebra")
        assert (read.line.text, read.lowered) == ("ValueError: Zebra", "valueerror: zebra")
        assert read.line.process == "EngineCore_DP0 pid=41"

    def test_is_kept_as_evidence_up_to_a_length(self):
        assert len(Read.of(1, "x" * 3 * EVIDENCE_MOST).spot.evidence) == EVIDENCE_MOST

    @pytest.mark.parametrize(
        ("raw", "is_loud"),
        [
            (f"{ERROR}x", True),
            ("CRITICAL:root:x", True),
            ("x", True),
            (f"{WARNING}x", False),
            (f"{INFO}x", False),
            ("DEBUG 03-01 10:00:01 [x.py:7] x", False),
        ],
    )
    def test_is_loud_unless_its_level_makes_light_of_it(self, raw, is_loud):
        assert Read.of(1, raw).is_loud is is_loud


class TestWhatALineMeansTheNextTime:
    @pytest.mark.parametrize(
        ("line", "meaning"),
        [
            (LOADED, Stage.LOADED),
            (SIZED, Stage.SIZED),
            (ANSWERED, Stage.SERVING),
            ("hello", Stage.NOTHING),
            (f"{ERROR}nothing that a rule knows", Stage.NOTHING),
            ('raise ValueError("No CUDA GPUs are available")', Stage.NOTHING),
        ],
    )
    def test_is_the_same_if_it_only_marks_a_stage_or_nothing(self, line, meaning):
        assert Notes().take(Read.of(1, line)) is meaning

    @pytest.mark.parametrize(
        "line",
        [
            BANNER,
            READY,
            f"{INFO}Available KV cache memory: 3.2 GiB",
            f"{INFO}Cudagraph is disabled under eager mode",
            NO_GPU,
            "KeyError: 'zebra'",
            DIED,
            DEAD,
            STALL,
            START,
            BUSY,
            "Killed",
            "Traceback (most recent call last):",
            'File "/x/y.py", line 7, in load_model',
            f"{WARNING}Sequence group 7 is preempted by PreemptionMode.RECOMPUTE mode",
            f"{INFO}Received signal 15",
            "INFO:     Shutting down",
        ],
    )
    def test_is_found_by_reading_it_again_if_it_says_more(self, line):
        assert Notes().take(Read.of(1, line)) is None

    def test_of_an_unknown_exception_is_nothing_while_a_server_lives(self):
        zebra = Read.of(9, "KeyError: 'zebra'")
        assert noted(READY).take(zebra) is Stage.NOTHING
        assert noted(READY, DIED).take(zebra) is None

    def test_of_a_known_exception_counts_however_well_a_server_lives(self):
        assert noted(READY).take(Read.of(9, OOM)) is None

    def test_of_a_refused_request_counts_once_the_engine_is_gone(self):
        assert noted(READY).take(Read.of(9, REFUSED)) is Stage.NOTHING
        assert noted(READY, DEAD).take(Read.of(9, REFUSED)) is None


class TestTheQuickWayForFrames:
    @pytest.mark.parametrize(
        "raw",
        [
            '  File "/x/y.py", line 7, in load_model',
            f'{ENGINE}{ERROR}  File "/x/y.py", line 7, in load_model',
            "Traceback (most recent call last):",
            f"{ENGINE}{ERROR}Traceback (most recent call last):\n",
            "vllm-1  | Traceback (most recent call last):",
            "[rank0]: Traceback (most recent call last):",
        ],
    )
    def test_is_for_lines_that_are_nothing_else(self, raw):
        assert Notes().take_frame(1, raw)

    @pytest.mark.parametrize(
        "raw",
        [
            "hello",
            'File "/x/y.py": gone',
            f"{OOM} Traceback (most recent call last):",
            'Traceback (most recent call last): File "x"',
            "Traceback (most recent call last): and more",
            'an old bar\r  File "/x/y.py", line 7, in load_model',
            '{"log": "  File \\"/x/y.py\\", line 7, in x", "at": {"File "',
            '{"a": 1} File "/x/y.py", line 7, in load_model',
        ],
    )
    def test_is_not_for_what_may_be_more(self, raw):
        assert not Notes().take_frame(1, raw)

    def test_leads_to_the_traceback_of_its_process(self):
        notes = Notes()
        notes.take_frame(1, f'{ENGINE}  File "/x/y.py", line 7, in profile_run')
        notes.take_frame(2, f'{API}  File "/x/y.py", line 7, in load_model')
        notes.take(Read.of(3, f"{ENGINE}{OOM}"))
        assert notes.run.findings[0].cause == "cuda_oom_profile"
        notes.take_frame(4, f"{API}Traceback (most recent call last):")
        notes.take(Read.of(5, f"{API}{OOM}"))
        assert not notes.run.findings[1].placed

    @pytest.mark.parametrize(
        "raw", ["Traceback (most recent call last):", '  File "/x/y.py", line 7, in x']
    )
    def test_ends_a_sentence(self, raw):
        notes = Notes()
        notes.take(Read.of(1, "ValueError: Free memory on device cuda:0 is less than desired"))
        assert notes.is_within_a_sentence
        assert notes.take_frame(2, raw)
        assert not notes.is_within_a_sentence
        assert notes.run.findings[0].cause == "gpu_memory_insufficient_at_start"


class TestProgress:
    def test_marks_the_stage_and_what_a_cache_has(self):
        run = run_of(LOADED, f"{INFO}Available KV cache memory: 3.5 GiB")
        assert (run.stage, run.available_bytes) == (Stage.SIZED, 7 << 29)
        assert line_of(run.health) == 2

    def test_is_none_where_the_cache_has_nothing(self):
        run = run_of(LOADED, f"{INFO}Available KV cache memory: -0.5 GiB")
        assert (run.stage, run.available_bytes) == (Stage.LOADED, -(1 << 29))
        assert [one.cause for one in run.findings] == ["kv_cache_no_blocks"]
        assert run_of(LOADED, f"{INFO}Available KV cache memory: 0.0 GiB").stage is Stage.LOADED

    def test_may_be_said_by_a_debugger(self):
        assert run_of(SIZED.replace("INFO", "DEBUG")).stage is Stage.SIZED

    @pytest.mark.parametrize("level", [ERROR, WARNING])
    def test_is_not_what_an_error_or_a_warning_quotes(self, level):
        assert run_of(f"{level}Application startup complete.").stage is Stage.NOTHING

    def test_says_whether_graphs_are_captured(self):
        assert run_of(f"{INFO}Cudagraph is disabled under eager mode").eager
        assert not run_of(f"{INFO}with config: enforce_eager=False").eager


class TestANewRun:
    def test_begins_with_a_banner_after_a_failure_or_after_progress(self):
        for past in (NO_GPU, DIED, DEAD, LOADED):
            assert run_of(past, BANNER).stage is Stage.STARTED
            assert run_of(past, BANNER).findings == []

    def test_does_not_begin_where_a_server_introduces_its_engine(self):
        engine = f"{INFO}Initializing a V1 LLM engine (v0.11.0) with config: x"
        notes = noted(BANNER, "KeyError: 'zebra'", f"{INFO}Starting to load model a/b", engine)
        assert notes.before is None
        assert (notes.run.stage, line_of(notes.run.exception)) == (Stage.LOADING, 2)
        assert run_of(NO_GPU, engine).findings == []

    def test_does_not_begin_with_a_banner_before_any_progress(self):
        for past in ("hello", BANNER):
            notes = noted(past, "KeyError: 'zebra'", BANNER)
            assert (notes.before, line_of(notes.run.exception)) == (None, 2)

    def test_begins_where_a_dead_server_is_up_again(self):
        notes = noted(READY, DIED, "KeyError: 7", READY)
        assert (notes.run.death, notes.run.stage) == (None, Stage.SERVING)
        assert line_of(notes.before.death) == 2

    def test_begins_where_arguments_are_refused_after_a_failure(self):
        usage = "vllm serve: error: unrecognized arguments: --zebra"
        notes = noted(DIED, "KeyError: 7", usage)
        assert [one.cause for one in notes.run.findings] == ["bad_argument"]
        assert (notes.run.death, line_of(notes.before.root)) == (None, 2)
        assert noted(BANNER, usage).before is None

    def test_leaves_the_last_one_that_said_anything_behind(self):
        notes = noted(NO_GPU, BANNER, DIED, BANNER)
        assert [one.spot.line for one in notes.before.findings] == [1]
        assert notes.run.death is None

    def test_begins_with_tracebacks_of_its_own(self):
        past = traceback("load_model", error=NO_GPU)
        assert not run_of(past, BANNER, LOADED, OOM).findings[0].placed

    def test_never_begins_in_a_document(self):
        notes = noted("```", NO_GPU, "```", BANNER, READY)
        assert notes.before is None
        assert (notes.run.is_quoted, notes.run.findings[0].spot.line) == (True, 2)


class TestACause:
    def test_is_the_finding_of_its_line(self):
        (found,) = run_of("hello", f"{ENGINE}{ERROR}{NO_GPU}").findings
        assert (found.cause, found.rank, found.placed) == ("cuda_init", Rank.STRONG, True)
        assert (found.spot.line, found.figures) == (2, {})

    def test_comes_with_the_figures_of_its_line(self):
        (found,) = run_of("ValueError: LoRA rank 64 is greater than max_lora_rank 16.").findings
        assert (found.cause, found.figures) == ("bad_argument", {"lora_rank": 64})

    def test_of_a_start_means_nothing_to_a_server(self):
        assert findings(READY, NO_GPU) == []
        assert findings(READY, "OSError: [Errno 98] Address already in use") == [("port_in_use", 2)]

    def test_is_said_loudly_but_for_a_few(self):
        fault = "CUDA error: an illegal memory access was encountered"
        xid = "NVRM: Xid (PCI:0000:01:00): 31, pid=812"
        for level in (INFO, WARNING):
            assert findings(f"{level}{fault}") == []
            assert findings(f"{level}{xid}") == [("cuda_illegal_access", 1)]
            assert findings(f"{level}oom-kill:constraint=x") == [("host_oom", 1)]

    def test_is_none_in_a_line_that_is_known_for_harmless(self):
        usage = "x: error: unrecognized arguments: --zebra"
        for frightens in (OOM, NO_GPU, "Out of memory: Killed process 1 (x)", usage):
            assert findings(frightens) != []
            assert findings(f"{frightens}, retrying in 3 s") == []

    def test_is_none_in_source_code(self):
        assert findings('raise ValueError("No CUDA GPUs are available")') == []
        frame = 'File "/x/y.py", line 7, in main'
        assert findings(frame, 'say("NCCL error: 7")') == []
        assert findings(frame, "say()", 'say("NCCL error: 7")') == [("nccl_or_dist", 3)]

    def test_of_the_host_comes_before_one_of_the_device(self):
        line = "ray.OutOfMemoryError: Task was killed due to the node running low on memory."
        assert findings(line) == [("host_oom", 1)]

    def test_that_nccl_wraps_decides(self):
        (found,) = run_of("Cuda failure 700 'an illegal memory access was encountered'").findings
        assert (found.cause, found.rank) == ("cuda_illegal_access", Rank.DECISIVE)
        (found,) = run_of("Cuda failure 2 'out of memory'").findings
        assert (found.cause, found.rank) == ("cuda_oom_load", Rank.DECISIVE)

    def test_is_kept_so_many_times(self):
        assert len(run_of(*[NO_GPU] * 2 * KEPT).findings) == KEPT


class TestAnOutOfMemory:
    def test_has_the_phase_of_its_frames(self):
        (found,) = run_of(READY, traceback("load_model", error=OOM)).findings
        assert (found.cause, found.placed, found.rank) == ("cuda_oom_load", True, Rank.STRONG)
        assert found.figures["tried_bytes"] == 3 << 29

    def test_has_the_phase_that_stands_beside_it(self):
        (found,) = run_of(f"Error executing method 'profile_run': {OOM}").findings
        assert (found.cause, found.placed) == ("cuda_oom_profile", True)

    def test_has_the_phase_of_the_last_stage_for_want_of_a_better_one(self):
        eager = f"{INFO}Cudagraph is disabled under eager mode"
        (found,) = run_of(SIZED, OOM).findings
        assert (found.cause, found.placed) == ("cuda_oom_cudagraph", False)
        (found,) = run_of(eager, SIZED, OOM).findings
        assert (found.cause, found.placed) == ("cuda_oom_profile", False)

    def test_is_placed_by_a_later_one_that_has_frames(self):
        first, second, third = run_of(
            OOM, traceback("profile_run", error=OOM), traceback("capture_model", error=OOM)
        ).findings
        assert (first.cause, first.placed, first.spot.line) == ("cuda_oom_profile", True, 1)
        assert second.cause == "cuda_oom_profile"
        assert third.cause == "cuda_oom_cudagraph"

    def test_is_not_placed_by_one_without(self):
        first, _ = run_of(OOM, OOM).findings
        assert not first.placed

    def test_is_not_placed_by_frames_of_an_earlier_traceback(self):
        past = traceback("load_model", error="KeyError: 'zebra'")
        for head in (
            "Traceback (most recent call last):",
            "oh: Traceback (most recent call last):",
        ):
            assert not run_of(past, head, OOM).findings[0].placed

    def test_is_not_what_the_host_says_in_the_same_words(self):
        assert findings("the host is out of memory") == []
        assert Notes().take(Read.of(1, "the host is out of memory")) is Stage.NOTHING

    @pytest.mark.parametrize(("others", "is_known"), [(20, True), (2_000, False)])
    def test_is_placed_by_frames_of_one_of_the_last_processes(self, others, is_known):
        frame = '(Worker pid={}) File "/x/y.py", line 7, in load_model'
        frames = [frame.format(pid) for pid in range(others)]
        (found,) = run_of(*frames, f"(Worker pid=0) {OOM}").findings
        assert found.placed is is_known


class TestADeath:
    def test_has_the_exception_that_stands_above_it(self):
        run = run_of("KeyError: 'zebra'", GONE, "KeyError: 'lion'")
        assert [line_of(s) for s in (run.exception, run.death, run.root)] == [1, 2, 1]

    def test_has_the_exception_that_follows_it(self):
        run = run_of("KeyError: 'zebra'", DIED, "KeyError: 'lion'", "KeyError: 'ape'")
        assert [line_of(s) for s in (run.exception, run.death, run.root)] == [1, 2, 3]

    def test_is_the_first_that_is_certain(self):
        run = run_of(DIED, GONE)
        assert (line_of(run.death), run.root) == (1, None)

    def test_is_not_believed_at_level_info(self):
        assert run_of(f"{INFO}{DIED}").death is None
        assert run_of(f"{WARNING}the engine died unexpectedly").loss is None

    def test_that_a_stop_may_look_like_is_a_loss(self):
        run = run_of(DEAD, "Engine core proc EngineCore_0 died unexpectedly", DEAD)
        assert (run.death, line_of(run.loss), run.unexpected) == (None, 1, True)
        assert not run_of(DEAD).unexpected

    def test_lets_nobody_be_refused_before(self):
        assert run_of(READY, DEAD, REFUSED).refused
        assert not run_of(READY, REFUSED, DEAD).refused


class TestAnException:
    def test_is_the_last_one_that_has_words_of_its_own(self):
        run = run_of("KeyError: 'zebra'", "KeyError: 'lion'", "EngineDeadError: x", "EOFError")
        assert line_of(run.exception) == 2

    def test_that_is_a_death_itself_is_its_root(self):
        run = run_of("RuntimeError: worker died with exit code 1")
        assert (line_of(run.death), line_of(run.root), run.exception) == (1, 1, None)

    def test_that_only_reports_another_is_no_root(self):
        assert line_of(run_of(DIED, "EngineDeadError: x", "KeyError: 'lion'").root) == 3

    def test_is_none_at_a_level_that_makes_light_of_it(self):
        assert run_of(f"{WARNING}KeyError: 'zebra'").exception is None

    def test_that_is_a_death_and_a_cause_at_once_is_its_own_end(self):
        run = run_of(f"RuntimeError: worker died with exit code 1: {NO_GPU}")
        assert (line_of(run.death), line_of(run.root), run.exception) == (1, None, None)
        assert [one.cause for one in run.findings] == ["cuda_init"]

    def test_that_no_rule_knows_is_blamed_on_what_was_being_done(self):
        zebra = traceback("create_engine_config", error="ValueError: zebra")
        (found,) = run_of(zebra).findings
        assert (found.cause, found.rank, found.spot.line) == ("bad_argument", Rank.WEAK, 4)
        assert run_of(READY, zebra).findings == []

    def test_that_a_rule_knows_is_blamed_on_nothing_else(self):
        known = traceback("create_engine_config", error="ValueError: this is a gated repo")
        assert [cause for cause, _ in findings(known)] == ["model_not_found_or_auth"]


class TestALife:
    def test_may_stall_and_the_first_stall_is_shown(self):
        run = run_of(READY, STALL, STALL)
        assert (run.stalls, line_of(run.stalled)) == (2, 2)

    def test_goes_on_when_a_server_answers_or_generates(self):
        for sign in (ANSWERED, BUSY):
            run = run_of(READY, STALL, STALL, sign)
            assert (run.stalls, run.stalled) == (0, None)
        assert run_of(READY, STALL, REFUSED).stalls == 1

    def test_goes_on_in_a_start_only_with_the_next_stage(self):
        assert run_of(LOADED, STALL, f"{INFO}generation throughput: 9.5").stalls == 1
        assert run_of(LOADED, STALL, SIZED).stalls == 0

    def test_has_so_many_requests_by_the_last_word(self):
        assert run_of(READY, BUSY, BUSY.replace("3 reqs", "0 reqs")).running == 0
        assert run_of(READY, BUSY, ANSWERED).running == 3

    def test_may_be_short_of_cache_and_the_first_line_shows_it(self):
        preempted = f"{WARNING}Sequence group 7 is preempted by PreemptionMode.RECOMPUTE mode"
        assert line_of(run_of(READY, preempted, preempted).preemption) == 2

    def test_may_be_asked_to_end_and_the_first_line_shows_it(self):
        order = f"{INFO}Received signal 15"
        assert line_of(run_of(READY, order, order).asked) == 2
        assert run_of("ERROR: worker died with exit code -15: received SIGTERM").asked is None

    def test_stops_in_order_if_nothing_has_failed_before(self):
        stops = ("INFO:     Shutting down", "INFO:     Application shutdown complete.")
        run = run_of(READY, *stops, "hello")
        assert (line_of(run.stopped), run.closed) == (2, True)
        assert not run_of("Shutting down, for the worker died with exit code 1").closed
        late = run_of(READY, DEAD, "INFO:     Shutting down")
        assert (late.stopped, late.closed) == (None, True)


class TestASentenceOverSeveralLines:
    def test_is_one_finding_on_its_first_line(self):
        half = TOO_SMALL.index("which is larger")
        (found,) = run_of("hello", TOO_SMALL[:half], TOO_SMALL[half:]).findings
        assert (found.cause, found.rank) == ("kv_cache_too_small", Rank.DECISIVE)
        assert (found.spot.line, found.figures["estimated_max_model_len"]) == (2, 6_976)

    def test_is_over_with_its_last_figure(self):
        notes = Notes()
        notes.take(Read.of(1, START))
        assert (len(notes.run.findings), notes.is_within_a_sentence) == (1, False)

    def test_is_over_where_something_else_begins(self):
        begun = "ValueError: Free memory on device cuda:0 is less than desired"
        assert findings(begun, "", NO_GPU) == [
            ("gpu_memory_insufficient_at_start", 1),
            ("cuda_init", 3),
        ]

    def test_does_not_begin_quietly_or_in_source_code(self):
        assert findings(f"{WARNING}{START}") == []
        assert findings(f'raise ValueError("{START}")') == []

    def test_may_be_no_refusal_after_all(self):
        notes = noted("Free memory on device cuda:0 is plenty", "hello")
        assert (notes.run.findings, notes.is_within_a_sentence) == ([], False)

    def test_about_a_cache_without_blocks_has_the_figure_from_above(self):
        left = f"{INFO}Available KV cache memory: -0.5 GiB"
        none_left = "ValueError: No available memory for the cache blocks. Try increasing x."
        found = run_of(left, none_left).best(Rank.DECISIVE)
        assert (found.spot.line, found.figures) == (2, {"available_bytes": -(1 << 29)})
        assert run_of(none_left).findings[0].figures == {}
        other = run_of(left, START).best(Rank.DECISIVE)
        assert "available_bytes" not in other.figures


def test_a_whole_death_is_read_into_its_parts():
    run = run_of(READY, engine_died("execute_model", error=OOM, serving=True))
    assert [one.cause for one in run.findings] == ["cuda_oom_serving"]
    assert run.death.evidence.endswith(DIED)
    assert run.root.evidence.endswith(OOM)
    assert run.loss.evidence.endswith("See stack trace (above).")
