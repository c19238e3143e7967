"""Whose fault it is that a card or a version does not take what a server was given."""

from dataclasses import replace

import pytest

from objectives.causes import REFUSALS
from objectives.errors import (
    BenchError,
    EngineError,
    OutOfMemoryError,
    RefusedSettingError,
)
from objectives.space import Binding, Parameter, SearchSpace
from objectives.trial.refusal import judge_refusal
from tests.kinds import VLLM, WHISPER

FP8 = "ValueError: type fp8e4nv not supported in this architecture. The supported fp8 dtypes are"
FP8 = f"{FP8} ('fp8e4b15', 'fp8e5')"
V1 = "NotImplementedError: VLLM_USE_V1=1 is not supported with --kv-cache-dtype."
BFLOAT16 = (
    "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your "
    "Tesla T4 GPU has compute capability 7.5. You can use float16 instead"
)
CHOICES = (
    "api_server.py: error: argument --kv-cache-dtype: invalid choice: 'fp9' (choose from 'auto', "
    "'bfloat16', 'FLASHINFER')"
)
LITERAL = (
    "Input should be 'auto', 'bfloat16' or 'fp8' [type=literal_error, input_value='fp9', "
    "input_type=str]"
)
NO_KERNEL = "RuntimeError: CUDA error: no kernel image is available for execution on the device"


def parameter(name, bind, *choices):
    return Parameter(name=name, binding=Binding.parse(bind), choices=choices)


SPACE = SearchSpace(
    (
        parameter("util", "vllm.args.gpu-memory-utilization", 0.4, 0.5),
        parameter("cache", "vllm.args.kv-cache-dtype", "auto", "fp8", "fp9"),
        parameter("type", "vllm.args.dtype", "auto", "bfloat16"),
        parameter("attention", "vllm.env.VLLM_ATTENTION_BACKEND", "FLASH_ATTN", "FLASHINFER"),
        parameter("eager", "vllm.args.enforce-eager", True, False),
        parameter("size", "whisper.model", "tiny", "small"),
        parameter("speech", "whisper.args.dtype", "float32", "float16"),
    )
)
POINT = {
    "util": 0.5,
    "cache": "auto",
    "type": "auto",
    "attention": "FLASH_ATTN",
    "eager": False,
    "size": "small",
    "speech": "float32",
}


def judged(line, *, cause="bad_argument", kind=VLLM, error=BenchError, worked=(), **own):
    reason = error(f"{kind.name} exited with 1: {line}", cause=cause)
    params = {**POINT, **own}
    return judge_refusal(reason, kind, space=SPACE, params=params, worked=worked)


class TestWhatVariesIsTheCandidates:
    @pytest.mark.parametrize(
        ("line", "own", "what"),
        [
            (FP8, {"cache": "fp8"}, "cache fp8"),
            (V1, {"cache": "fp8"}, "cache fp8"),
            (CHOICES, {"cache": "fp9", "type": "bfloat16"}, "cache fp9"),
            (LITERAL, {"cache": "fp9", "type": "bfloat16"}, "cache fp9"),
            (BFLOAT16, {"type": "bfloat16"}, "type bfloat16"),
            ("ValueError: Flashinfer is not installed", {"attention": "FLASHINFER"}, "attention"),
            ("unrecognized arguments: --no-enforce-eager", {}, "eager False"),
            ("gpu_memory_utilization must be less than 0.45", {}, "util 0.5"),
        ],
    )
    def test_where_the_line_names_its_option_or_its_value(self, line, own, what):
        end = judged(line, **own)
        assert isinstance(end, RefusedSettingError)
        assert end.cause == "start_refused"
        assert end.excess == {"start_refused": 1.0}
        assert line in end.evidence
        assert f"what does not start here: {what}" in end.remedy
        assert end.remedy.count(" fp") + end.remedy.count(" bfloat") <= 1  # nothing else is blamed

    @pytest.mark.parametrize("cause", sorted(REFUSALS))
    @pytest.mark.parametrize("error", [BenchError, EngineError])
    def test_where_the_server_came_up_with_other_settings(self, cause, error):
        others = [{**POINT, "util": 0.4}]
        end = judged(NO_KERNEL, cause=cause, error=error, worked=others)
        assert isinstance(end, RefusedSettingError)
        assert "util 0.5, cache auto" in end.remedy

    def test_of_whisper_too(self):
        line = "Requested float16 compute type is not supported by this device"
        end = judged(line, kind=WHISPER, cause="unsupported_gpu", speech="float16")
        assert isinstance(end, RefusedSettingError)
        assert "speech float16" in end.remedy


class TestTheBenchIsAtFault:
    def test_where_nothing_that_varies_is_named_and_nothing_has_started_yet(self):
        end = judged(NO_KERNEL, cause="unsupported_gpu", error=EngineError)
        assert type(end) is EngineError
        assert str(end) == f"vllm exited with 1: {NO_KERNEL}"

    @pytest.mark.parametrize("other", [{}, {"size": "tiny"}, {"speech": "float16"}])
    def test_where_these_very_settings_of_the_server_came_up_before(self, other):
        worked = [{**POINT, "util": 0.4}, {**POINT, **other}]
        assert type(judged(NO_KERNEL, cause="unsupported_gpu", worked=worked)) is BenchError

    @pytest.mark.parametrize(
        ("line", "args", "env", "key"),
        [
            (BFLOAT16, {"dtype": "bfloat16"}, {}, "vllm.args.dtype: bfloat16"),
            (V1, {"kv-cache-dtype": "fp8"}, {}, "vllm.args.kv-cache-dtype: fp8"),
            (V1, {}, {"VLLM_USE_V1": "1"}, "vllm.env.VLLM_USE_V1: 1"),
        ],
    )
    def test_where_a_fixed_option_is_refused_and_its_key_is_named(self, line, args, env, key):
        fixed = replace(VLLM, settings=replace(VLLM.settings, args=args, env=env))
        space = SearchSpace((SPACE["util"],))
        reason = EngineError(f"vllm exited with 1: {line}", cause="unsupported_gpu")
        end = judge_refusal(reason, fixed, space=space, params={"util": 0.5})
        assert type(end) is EngineError
        assert end.cause == "unsupported_gpu"
        assert str(end) == f"{reason}; the configuration has {key}"

    @pytest.mark.parametrize("cause", ["cuda_init", "port_in_use", "engine_dead_other", "bench"])
    def test_where_the_machine_or_nobody_knows_what_is_at_fault(self, cause):
        end = judged(V1, cause=cause, cache="fp8", worked=[{**POINT, "util": 0.4}])
        assert type(end) is BenchError

    @pytest.mark.parametrize(
        ("line", "own"),
        [
            ("argument --dtype-x: invalid", {"type": "bfloat16"}),
            ("the cache is auto, true or none", {"cache": "auto"}),
            ("0.5 is not supported", {}),
            ("cuda.kv-cache-dtypes", {"cache": "auto"}),
        ],
    )
    def test_a_part_of_a_name_or_a_plain_word_names_nothing(self, line, own):
        assert type(judged(line, **own)) is BenchError

    def test_a_models_name_is_an_everyday_word(self):
        assert type(judged("the buffer is too small", kind=WHISPER)) is BenchError


def test_what_is_infeasible_already_stays_what_it_is():
    reason = OutOfMemoryError("cuda_oom_load", "--kv-cache-dtype")
    assert judge_refusal(reason, VLLM, space=SPACE, params=POINT) is reason
