"""What a run says while it runs."""

import io

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from study.search.progress import Lines, outcome, setting


def trial(state, **attrs):
    values = [12.5, 3.0] if state == TrialState.COMPLETE else None
    return create_trial(
        state=state,
        values=values,
        params={"u": 0.5},
        distributions={"u": FloatDistribution(0, 1)},
        user_attrs=attrs,
    )


MEASURED = trial(TrialState.COMPLETE)
REFUSED = trial(
    TrialState.PRUNED,
    infeasible={"cause": "kv_cache_no_blocks", "evidence": "0.79 GiB short", "predicted": True},
)
DIED = trial(
    TrialState.PRUNED,
    infeasible={"cause": "cuda_oom_serving", "evidence": "CUDA out of memory", "predicted": False},
)
BROKEN = trial(TrialState.FAIL, error={"cause": "port_in_use", "message": "vllm exited with 1"})
NAMES = ["stt_latency_ms", "concurrent_capacity"]


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (MEASURED, "measured: stt_latency_ms 12.5, concurrent_capacity 3"),
        (REFUSED, "not launched: kv_cache_no_blocks: 0.79 GiB short"),
        (DIED, "infeasible: cuda_oom_serving: CUDA out of memory"),
        (BROKEN, "the bench broke (port_in_use): vllm exited with 1"),
    ],
)
def test_the_outcome_of_a_trial_is_one_line(ended, said):
    assert outcome(ended, NAMES) == said


def test_lines_say_who_which_phase_what_came_of_it_and_what_is_left():
    out = io.StringIO()
    lines = Lines(out=out)
    lines.log("device: CPU")
    lines.on_trial_start(3, {"u": 0.5})
    lines.on_phase("start vllm")
    lines.on_phase("start vllm")
    lines.on_trial_end(DIED, NAMES, "12 points left")
    text = out.getvalue()
    assert text.count("start vllm") == 1
    for said in ("device: CPU", "trial 3: u 0.5", "cuda_oom_serving", "12 points left"):
        assert said in text
    assert "\x1b" not in text


def test_a_setting_is_one_line():
    assert setting({"a": 0.5, "b": "tiny"}) == "a 0.5, b tiny"
    assert optuna.__version__ >= "5"
