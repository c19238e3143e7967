"""A configuration is checked once, at the door."""

from pathlib import Path

import pytest

from objectives.errors import UsageError
from study.config.study_config import checked
from tests.study.config.configurations import OURS

BOX = Path("box.yaml")


def ours(**change):
    return checked({**OURS, **change}, source=BOX)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vllm": {"modle": "x"}}, "vllm.modle: unknown key; did you mean 'model'?"),
        ({"vllm": {}}, "vllm.model: missing"),
        ({"search_space": {}}, "search_space: found nothing"),
        ({"search_space": {"foo": [1, 2]}}, "search_space.foo: no `bind`"),
        ({"search_space": {"foo": {"bind": "gpu", "choices": [1]}}}, "search_space.foo: 'gpu'"),
        ({"search_space": {"vllm_memory_util": {"low": 0.6, "high": 0.4}}}, "high must not be"),
        ({"baseline": {"vllm_memory_util": 0.9}}, "baseline.vllm_memory_util: found 0.9, allowed"),
        ({"baseline": {"whisper": "tiny"}}, "baseline.whisper: unknown"),
        ({"baseline": {"vllm_memory_util": 0.4}}, "baseline.whisper_model_size: missing"),
        ({"sampler": "hill"}, "sampler: found 'hill', allowed: auto"),
        ({"slo": {"stt_latency_ms": {}}}, "slo.stt_latency_ms: give either max or min"),
        ({"slo": {"speed": {"max": 1}}}, "slo.speed: unknown"),
        ({"objectives": {"speed": "minimize"}}, "speed is no objective"),
        ({"objectives": {"gpu_utilization": "neutral"}}, "needs a target"),
        ({"objectives": {"wer": "minimize"}}, "wer: missing"),
        ({"start_order": ["vllm"]}, "start_order: found ['vllm']"),
        ({"neighbours": [{"name": "a", "kind": "hold"}]}, "neighbours.0.gib: missing"),
        ({"seed": -1}, "seed: found -1"),
    ],
)
def test_a_mistake_is_one_line_with_key_found_and_allowed(change, said):
    with pytest.raises(UsageError) as caught:
        ours(**change)
    line = str(caught.value)
    assert "\n" not in line
    assert said in line
    assert line.startswith("box.yaml: ")


def test_anything_that_a_server_takes_can_be_searched():
    space = {
        "util": {
            "bind": "vllm.args.gpu-memory-utilization",
            "low": 0.3,
            "high": 0.7,
            "step": 0.01,
        },
        "seqs": {"bind": "vllm.args.max-num-seqs", "low": 2, "high": 64, "log": True},
        "kv": {"bind": "vllm.args.kv-cache-dtype", "choices": ["auto", "fp8"]},
        "eager": {"bind": "vllm.args.enforce-eager", "choices": [True, False]},
        "place": {"bind": "whisper.device", "choices": ["same", "cpu"]},
        "beam": {"bind": "whisper.args.beam-size", "choices": [1, 5], "when": {"place": "same"}},
        "attention": {"bind": "vllm.env.VLLM_ATTENTION_BACKEND", "choices": ["A", "B"]},
    }
    config = ours(search_space=space)
    assert config.space["seqs"].integer
    assert not config.space.is_active("beam", {"place": "cpu"})
    assert config.baseline is None


def test_a_hard_objective_adds_a_constraint_to_every_trial():
    slo = {"stt_latency_ms": {"max": 500, "hard": True}, "llm_latency_ms": {"max": 1000}}
    config = ours(slo=slo)
    assert config.constraint_names[-1] == "slo_stt_latency_ms"
    assert len(config.limits) == 1


def test_a_missing_baseline_is_what_runs_today():
    space = {**OURS["search_space"], "seqs": {"bind": "vllm.args.max_num_seqs", "choices": [4, 8]}}
    config = ours(search_space=space, vllm={"model": "m", "args": {"max-num-seqs": 8}})
    assert config.baseline == {"vllm_memory_util": 0.5, "whisper_model_size": "small", "seqs": 8}


def test_the_storage_is_a_file_named_after_the_study_by_default():
    assert ours().storage_url == "sqlite:///studies/mine.db"


def test_an_option_of_the_command_line_is_checked_like_a_key():
    config = ours()
    assert config.with_changes(name="other").name == "other"
    with pytest.raises(UsageError, match="sampler: found 'hill'"):
        config.with_changes(sampler={"name": "hill"})
