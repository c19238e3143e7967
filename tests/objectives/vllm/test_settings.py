"""What of a vLLM command line decides its memory."""

import pytest

from objectives.models.config import UnsupportedShapeError
from objectives.units import GIB
from objectives.vllm.rules import VllmRules
from objectives.vllm.settings import VllmSettings


def settings(version="0.32.0", kind="cuda", env=None, **args):
    options = {name.replace("_", "-"): value for name, value in args.items()}
    rules = VllmRules(version, kind)
    return VllmSettings.from_args(options, rules, device_total_bytes=24 * GIB, env=env)


def test_what_is_not_given_is_the_versions_default():
    found = settings()
    assert (found.utilization, found.max_num_seqs, found.max_num_batched_tokens) == (
        0.92,
        256,
        2048,
    )
    assert found.max_model_len is None


def test_what_is_given_stands_before_the_default():
    found = settings(
        gpu_memory_utilization="0.5", max_num_seqs=16, max_model_len=4096, enforce_eager=True
    )
    assert (found.utilization, found.max_num_seqs) == (0.5, 16)
    assert found.max_model_len == 4096
    assert found.enforce_eager


def test_a_flag_that_is_left_out_is_off():
    assert not settings(enforce_eager=False, max_num_seqs=None).enforce_eager


@pytest.mark.parametrize(
    ("text", "tokens"), [("4096", 4096), ("4k", 4000), ("4K", 4096), ("1.5k", 1500), (4096, 4096)]
)
def test_counts_are_read_as_vllm_reads_them(text, tokens):
    assert settings(max_model_len=text).max_model_len == tokens


@pytest.mark.parametrize("word", ["auto", -1, "-1"])
def test_a_length_that_fits_itself_to_the_memory_is_known_as_such(word):
    assert settings(max_model_len=word).fits_length_to_memory


@pytest.mark.parametrize(
    "args",
    [{"max_model_len": "long"}, {"gpu_memory_utilization": 1.5}, {"gpu_memory_utilization": "x"}],
)
def test_what_is_no_number_is_refused_by_name(args):
    with pytest.raises(UnsupportedShapeError, match=next(iter(args)).replace("_", "-")):
        settings(**args)


def test_the_variable_of_the_cpu_backend_sizes_the_cache_in_gib():
    env = {"VLLM_CPU_KVCACHE_SPACE": "2"}
    assert settings(kind="cpu", env=env).kv_cache_memory_bytes == 2 * GIB
    assert settings(kind="cuda", env=env).kv_cache_memory_bytes is None


def test_the_environment_can_turn_the_estimate_of_graphs_off():
    env = {"VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": "0"}
    assert settings(env=env).graphs_in_budget is False
    assert settings().graphs_in_budget is None


def test_options_that_change_memory_beyond_the_arithmetic_are_named():
    found = settings(enable_lora=True, pipeline_parallel_size=2)
    assert found.unmodelled == ("enable-lora", "pipeline-parallel-size")


def test_a_number_of_tokens_that_was_asked_for_is_told_from_the_default():
    assert settings(max_num_batched_tokens=2048).batched_tokens_given
    assert not settings().batched_tokens_given


def test_a_pooling_server_samples_nothing():
    assert settings(runner="pooling").pooling
    assert not settings().pooling


@pytest.mark.parametrize(
    ("args", "caches"),
    [
        ({}, None),
        ({"enable_prefix_caching": True}, True),
        ({"enable_prefix_caching": "false"}, False),
        ({"no_enable_prefix_caching": True}, False),
    ],
)
def test_prefixes_are_cached_as_asked_or_as_the_version_has_it(args, caches):
    assert settings(**args).prefix_caching is caches


def test_types_of_recurrent_states_are_read():
    found = settings(mamba_cache_dtype="float32", mamba_ssm_cache_dtype="bfloat16")
    assert (found.conv_state_dtype, found.recurrent_state_dtype) == ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("stated", "drafts"),
    [
        ('{"method": "mtp", "num_speculative_tokens": 3}', (3, True)),
        ('{"method": "qwen3_next_mtp", "num_speculative_tokens": 1}', (1, True)),
        ('{"model": "small", "num_speculative_tokens": 5}', (5, False)),
        ('{"method": "ngram"}', (0, False)),
        ("{", (0, False)),
        ("[1]", (0, False)),
    ],
)
def test_drafts_are_counted_and_still_are_not_certain(stated, drafts):
    found = settings(speculative_config=stated)
    assert (found.drafts, found.drafts_by_model) == drafts
    assert found.unmodelled == ("speculative-config",)


def test_the_utilisation_has_a_second_name():
    assert settings("0.31.0", device_memory_utilization=0.4).utilization == 0.4


@pytest.mark.parametrize(
    "option",
    [
        *("enable-sleep-mode", "enable-cumem-allocator", "enable-dbo", "skip-mm-profiling"),
        *(
            "limit-mm-per-prompt",
            "cudagraph-capture-sizes",
            "cpu-offload-params",
            "mamba-cache-mode",
        ),
        *("mm-encoder-only", "optimization-level", "kv-offloading-backend"),
    ],
)
def test_an_option_that_moves_memory_otherwise_is_told(option):
    assert settings(**{option: "1"}).unmodelled == (option,)
    assert settings(**{option: False}).unmodelled == ()


@pytest.mark.parametrize("option", ["data-parallel-size", "ubatch-size"])
def test_one_of_what_is_counted_changes_nothing(option):
    assert settings(**{option: 1}).unmodelled == ()
    assert settings(**{option: 2}).unmodelled == (option,)


@pytest.mark.parametrize("name", ["VLLM_ENABLE_STARTUP_PLAN", "VLLM_USE_V2_MODEL_RUNNER"])
def test_a_switch_in_the_environment_that_moves_memory_is_told(name):
    assert settings(env={name: "1"}).unmodelled == (name,)
    assert settings(env={name: "0"}).unmodelled == ()
