"""What a run says while it runs."""

import io

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from study.search.live import Live, memory_bar
from study.search.progress import GIB, Holding, Lines, outcome, setting


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
    lines.note("device: CPU")
    lines.began(3, {"u": 0.5})
    lines.step("start vllm")
    lines.step("start vllm")
    lines.ended(DIED, NAMES, "12 points left")
    text = out.getvalue()
    assert text.count("start vllm") == 1
    for said in ("device: CPU", "trial 3: u 0.5", "cuda_oom_serving", "12 points left"):
        assert said in text
    assert "\x1b" not in text


def test_the_memory_bar_is_as_wide_as_asked_and_names_everybody():
    holding = Holding(total_bytes=12 * GIB, by_tenant={"vllm": 6 * GIB, "whisper": GIB})
    text = memory_bar(holding, width=60).plain
    bar, legend = text.split("\n")
    assert len(bar) == 60
    assert bar.count("█") == 35
    assert legend == "vllm 6.0  whisper 1.0  free 5.0 of 12.0 GiB"


def test_more_than_the_whole_device_does_not_overflow_the_bar():
    holding = Holding(total_bytes=GIB, by_tenant={"vllm": GIB, "other": GIB})
    assert len(memory_bar(holding, width=40).plain.split("\n")[0]) == 40


def test_the_live_view_shows_trial_phase_memory_front_and_causes():
    console = Console(file=io.StringIO(), width=90, force_terminal=True)
    live = Live(
        console=console,
        holding=lambda: Holding(total_bytes=12 * GIB, by_tenant={"vllm": 6 * GIB}),
        front=lambda: [(3, "u 0.5", "12 ms, 3 requests")],
    )
    live.began(4, {"u": 0.5})
    live.step("measure")
    live.ended(DIED, NAMES, "12 points left")
    live.began(5, {"u": 0.6})
    live.step("start vllm")
    live._seen = live.holding()
    page = Console(file=io.StringIO(), width=90)
    page.print(live.render())
    live.close()
    text = page.file.getvalue()
    for said in (
        "trial 5: u 0.6",
        "start vllm",
        "vllm 6.0",
        "12 ms, 3 requests",
        "cuda_oom_serving",
        "12 points left",
    ):
        assert said in text


def test_a_setting_is_one_line():
    assert setting({"a": 0.5, "b": "tiny"}) == "a 0.5, b tiny"
    assert optuna.__version__ >= "5"
