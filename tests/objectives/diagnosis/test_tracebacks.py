"""Frames of a traceback, and refusals to start that somebody broke over several lines."""

from __future__ import annotations

import pytest

from objectives.diagnosis.server_run import Spot
from objectives.diagnosis.tracebacks import TRACEBACK, Traceback, WrappedRefusal
from objectives.vllm import read_line
from tests.objectives.diagnosis.failing_logs import (
    CPU_KV,
    RACE,
    START,
    TOO_SMALL,
    V0_KV,
    traceback,
)

GIB = 1 << 30
SPOT = Spot(line=3, evidence="as it stands")


def begun(text):
    line = read_line(text)
    return WrappedRefusal.begin(line, line.text.lower(), SPOT)


def whole(*texts):
    """A refusal that was broken into these lines."""
    refusal = begun(texts[0])
    for text in texts[1:]:
        assert not refusal.is_complete
        assert refusal.take(read_line(text))
    return refusal


class TestARefusal:
    @pytest.mark.parametrize(
        "text",
        [
            TOO_SMALL,
            START,
            RACE,
            f"{V0_KV} that can be stored in KV cache (2080). Try",
            CPU_KV.format("2.1", "3.4/6.2"),
            "ValueError: No available memory for the cache blocks. Try increasing x.",
            "ValueError: Externally held weights on device cuda:0 (14.0/24.0 GiB) exceed the"
            " desired GPU memory utilization (0.5, 12.0 GiB). Increase GPU memory utilization",
            "ValueError: max_num_seqs (256) exceeds available Mamba cache blocks (40).",
        ],
    )
    def test_begins_with_its_first_words_and_may_end_on_its_first_line(self, text):
        refusal = begun(text)
        assert (refusal.spot, refusal.is_complete) == (SPOT, True)
        cause, figures = refusal.result()
        assert cause
        assert figures or "No available memory" in text

    @pytest.mark.parametrize(
        "text",
        [
            "INFO 03-01 10:00:30 [gpu_worker.py:391] Free memory on device (11.2/11.63 GiB) on"
            " startup. Desired GPU memory utilization is (0.5, 5.82 GiB).",
            "INFO 03-01 10:00:20 [kv_cache_utils.py:716] GPU KV cache size: 6,976 tokens",
            "Available KV cache memory: 3.2 GiB",
            "max seq len: 4096",
        ],
    )
    def test_does_not_begin_with_what_a_healthy_start_prints(self, text):
        assert begun(text) is None

    def test_may_be_broken_anywhere_behind_its_first_words_even_inside_one(self):
        first, figures_begin = START.index(" cuda:0"), START.index("(0.9")
        for at in range(first, len(START)):
            refusal = begun(START[:at])
            if not refusal.is_complete:
                refusal.take(read_line(START[at:]))
            cause, figures = refusal.result()
            assert cause == "gpu_memory_insufficient_at_start", START[:at]
            if at <= figures_begin:
                assert figures["requested_bytes"] == round(10.47 * GIB), START[:at]

    def test_may_be_broken_into_several_lines(self):
        words = START.split(" ")
        refusal = whole(*(" ".join(words[n : n + 7]) for n in range(0, 21, 7)))
        assert refusal.is_complete
        assert refusal.result()[1]["utilization"] == 0.9

    @pytest.mark.parametrize(
        ("text", "is_over"),
        [
            ("max seq len (4096), the estimated maximum model length is 697", False),
            ("max seq len (4096), the estimated maximum model length is 6976.", True),
            ("to serve at least one request, more is needed", False),
            ("to serve at least one request, more is needed. Try increasing", True),
            ("to serve at least one request, more is needed. See https://x", True),
            ("No available memory for", False),
            ("No available memory for the cache blocks", True),
            ("Free memory on device cuda:0 (4.1/11.63 GiB) on startup is", False),
            ("Free memory on device cuda:0 is little. Decrease", True),
            ("Free memory on device cuda:0 is little, so reduce GPU memory", True),
            ("Available memory on node 0 is little, so reduce CPU memory", True),
            ("Free memory on device cuda:0 is less than utilization (0.9, 10.47 GiB", False),
            ("Free memory on device cuda:0 is less than utilization (0.9, 10.47 GiB)", True),
            ("Available memory on node 0 is less than requested memory for kv (8", False),
            ("Available memory on node 0 is less than requested memory for kv (8 GiB)", True),
            ("Error in memory profiling. Initial, current free memory 9", False),
            ("Error in memory profiling. Initial, current free memory 9.2 GiB", True),
            ("max seq len (8192) is more than can be stored in KV cache", False),
            ("max seq len (8192) is more than that can be stored in KV cache (2080)", True),
            ("max seq len (8192) is more than that can be stored in the KV cache (2080)", True),
        ],
    )
    def test_is_over_where_its_last_figure_stands(self, text, is_over):
        assert begun(text).is_complete is is_over

    def test_is_over_after_a_few_lines_whatever_they_say(self):
        refusal = begun("ValueError: To serve at least one request")
        taken = 0
        while taken < 20 and not refusal.is_complete:
            refusal.take(read_line("and so on"))
            taken += 1
        assert 3 <= taken <= 10
        assert refusal.result() is None

    @pytest.mark.parametrize("text", ["", "```", "Traceback (most", 'File "x.py", line 7, in x'])
    def test_does_not_go_on_in_what_is_no_sentence(self, text):
        refusal = begun("ValueError: Free memory on device cuda:0")
        assert refusal.take(read_line(text)) is False
        assert refusal.parts == ["ValueError: Free memory on device cuda:0"]

    def test_that_was_cut_short_still_has_its_cause(self):
        assert whole("To serve at least one request with max seq len (4096), but").result() == (
            "kv_cache_too_small",
            {"max_model_len": 4_096},
        )
        cut = whole("Free memory on device cuda:0 is", "less than desired")
        assert cut.result() == ("gpu_memory_insufficient_at_start", {})
        assert whole("Free memory on device cuda:0 is plenty").result() is None

    @pytest.mark.parametrize(
        ("left", "cause", "figure"),
        [
            ("3.4/6.2", "gpu_memory_insufficient_at_start", {"needed_bytes": round(3.4 * GIB)}),
            ("0/6.2", "kv_cache_no_blocks", {"available_bytes": 0}),
            ("-0.42/1.56", "kv_cache_no_blocks", {"available_bytes": round(-0.42 * GIB)}),
        ],
    )
    def test_of_the_cpu_backend_has_the_cause_that_its_figure_says(self, left, cause, figure):
        found, figures = whole(CPU_KV.format("9.1", left)).result()
        assert found == cause
        assert figures.items() >= figure.items()
        assert "left_bytes" not in figures


def frame(function, path="/x/vllm/v1/x.py"):
    return f'File "{path}", line 7, in {function}'


def at(number):
    return Spot(line=number, evidence="a line")


def after(*functions):
    traceback = Traceback()
    for number, function in enumerate(functions, 1):
        assert traceback.take_frame(frame(function), at(number))
    return traceback


class TestATraceback:
    def test_begins_as_python_begins_it(self):
        assert traceback("main", error="KeyError: 7").startswith(f"{TRACEBACK}\n")

    def test_knows_its_frames_from_other_lines(self):
        traceback = Traceback()
        assert traceback.take_frame('File "<frozen runpy>", line 88', at(4))
        assert traceback.frame == at(4)
        assert not traceback.take_frame('the File "x.py", line 7, in load_model', at(5))
        assert not traceback.take_frame("ValueError: line 7, in load_model", at(6))
        assert (traceback.frame, traceback.phase) == (at(4), None)

    def test_gives_its_last_frame_to_an_exception_without_words(self):
        traceback = Traceback()
        assert traceback.raised("AssertionError") is None
        last = Spot(line=2, evidence=f"tag {frame('unify')}")
        traceback.take_frame(frame("unify"), last)
        raised = traceback.raised("AssertionError")
        assert (raised.line, raised.evidence) == (2, last.evidence)
        assert raised.raised == ("AssertionError", "unify", "/x/vllm/v1/x.py:7")

    @pytest.mark.parametrize(
        ("functions", "phase"),
        [
            (("main", "<module>"), None),
            (("load_model", "create_weights", "<lambda>"), "cuda_oom_load"),
            (("run_busy_loop", "load_model"), "cuda_oom_load"),
            (("profile_run", "execute_model"), "cuda_oom_profile"),
            (("capture_model", "_dummy_run", "load_model"), "cuda_oom_cudagraph"),
        ],
    )
    def test_names_the_phase_of_an_out_of_memory(self, functions, phase):
        assert after(*functions).phase == phase

    def test_says_whether_arguments_were_being_checked(self):
        assert after("main", "create_engine_config", "x").in_config
        assert not after("main", "load_model").in_config

    def test_says_whether_a_weight_looked_for_its_place(self):
        assert after("load_weights", "weight_loader", "narrow").in_checkpoint
        auto = Traceback()
        auto.take_frame(frame("__getitem__", "/x/transformers/models/auto/configuration.py"), at(1))
        assert auto.in_checkpoint
        assert not after("load_weights").in_checkpoint

    def test_begins_anew(self):
        traceback = after("create_engine_config", "weight_loader", "load_model")
        traceback.restart()
        traceback.take_frame(frame("main"), at(9))
        assert (traceback.phase, traceback.in_config, traceback.in_checkpoint) == (
            None,
            False,
            False,
        )

    def test_echoes_source_code_right_below_a_frame_and_carets_anywhere(self):
        traceback = after("main")
        assert traceback.echoes("self.load(1)", 2, is_exception=False)
        assert not traceback.echoes("ValueError: x", 2, is_exception=True)
        assert not traceback.echoes("self.load(1)", 3, is_exception=False)
        assert traceback.echoes("~~~~^^^^ ", 3, is_exception=False)
        assert not traceback.echoes("^C stopped", 3, is_exception=False)
        assert not Traceback().echoes("hello", 1, is_exception=False)


class TestAnExceptionNoRuleKnows:
    def test_is_cuda_s_where_a_device_was_looked_up(self):
        assert after("get_capability", "device_id_to_physical_device_id").blamed_by("IndexError")
        assert after("get_capability").blamed_by("IndexError") is None

    @pytest.mark.parametrize(
        "kind",
        ["ValueError", "TypeError", "AssertionError", "NotImplementedError", "x.ValidationError"],
    )
    def test_is_a_bad_argument_where_arguments_were_checked(self, kind):
        assert after("create_engine_config").blamed_by(kind) == "bad_argument"
        assert after("main").blamed_by(kind) is None

    @pytest.mark.parametrize("kind", ["KeyError", "AssertionError", "builtins.AttributeError"])
    def test_is_an_unknown_checkpoint_where_weights_were_placed(self, kind):
        blamed = "unsupported_quantization_or_arch"
        assert after("weight_loader").blamed_by(kind) == blamed
        assert after("create_engine_config", "weight_loader").blamed_by(kind) == blamed
        assert after("load_model").blamed_by(kind) is None

    def test_is_nothing_if_it_is_of_another_kind(self):
        assert after("create_engine_config").blamed_by("KeyError") is None
        assert after("weight_loader").blamed_by("RuntimeError") is None

    @pytest.mark.parametrize(
        "function",
        [
            "create_engine_config", "create_model_config", "create_speculative_config",
            "parse_args", "__post_init__", "validate_parsed_serve_args",
            "validate_api_server_args", "_verify_args", "verify_with_parallel_config",
            "check_and_update_config", "from_cli_args",
        ],
    )  # fmt: skip
    def test_is_blamed_on_each_place_that_checks_arguments(self, function):
        assert after("main", function, "x").blamed_by("ValueError") == "bad_argument"

    def test_is_blamed_on_either_way_to_place_a_weight(self):
        for function in ("weight_loader", "default_weight_loader"):
            assert after(function).blamed_by("KeyError") == "unsupported_quantization_or_arch"
