"""What stays the same from trial to trial, and what follows from it."""

from dataclasses import FrozenInstanceError

import pytest

from objectives.constraints import CONSTRAINTS, Limit
from objectives.device.cpu import CpuNode
from objectives.load.profile import LlmLoad, LoadProfile, plan
from objectives.space import Binding, Parameter, SearchSpace
from objectives.trial.bench import Bench, Objective
from tests.kinds import with_servers

PROFILE = LoadProfile(
    seed=1,
    llm=LlmLoad(rate_rps=1, prompt_tokens=24, output_tokens=8, vocab_size=1000),
    warmup_s=0,
    measure_s=2,
)
SPACE = SearchSpace(
    (
        Parameter(
            name="utilisation",
            binding=Binding.parse("vllm.args.gpu-memory-utilization"),
            choices=(0.25, 0.5),
        ),
        Parameter(name="size", binding=Binding.parse("whisper.model"), choices=("tiny", "base")),
    )
)


def bench_with(**changes):
    """A bench on which nothing can be launched."""
    usual = {
        "space": SPACE,
        "device": CpuNode(),
        "profile": PROFILE,
        "trace": plan(PROFILE),
        "objectives": (Objective(name="llm_latency_ms"),),
    }
    return Bench(**with_servers({**usual, **changes}))


def test_without_hard_objectives_a_trial_carries_the_constraints_of_every_study():
    assert bench_with().constraint_names == CONSTRAINTS


def test_hard_objectives_follow_in_the_order_in_which_they_were_declared():
    limits = (
        Limit(objective="stt_latency_ms", most=500),
        Limit(objective="concurrent_capacity", least=4),
        Limit(objective="llm_latency_ms", most=900),
    )
    assert bench_with(limits=limits).constraint_names == (
        *CONSTRAINTS,
        "slo_stt_latency_ms",
        "slo_concurrent_capacity",
        "slo_llm_latency_ms",
    )


@pytest.mark.parametrize(
    ("llm_is_dummy", "whisper_is_dummy", "weights"),
    [
        (False, False, "real"),
        (True, False, "dummy"),
        (False, True, "dummy"),
        (True, True, "dummy"),
    ],
)
def test_one_server_with_random_weights_makes_the_bench_a_dummy(
    llm_is_dummy, whisper_is_dummy, weights
):
    bench = bench_with(llm_is_dummy=llm_is_dummy, whisper_is_dummy=whisper_is_dummy)
    assert bench.weights == weights


@pytest.mark.parametrize(
    ("target", "measured", "value"),
    [
        (None, 812.5, 812.5),
        (None, -3.0, -3.0),
        (70.0, 64.0, 6.0),
        (70.0, 76.0, 6.0),
        (70.0, 70.0, 0.0),
        (0.0, -3.0, 3.0),
    ],
)
def test_an_objective_is_the_figure_itself_or_its_distance_to_a_target(target, measured, value):
    assert Objective(name="gpu_utilization", target=target).value(measured) == value


def test_nobody_profiles_memory_beside_vllm_unless_told_otherwise():
    assert bench_with().start_order == ("neighbours", "whisper", "vllm")


def test_a_bench_does_not_change_under_a_running_study():
    with pytest.raises(FrozenInstanceError):
        bench_with().quantile = "p50"
