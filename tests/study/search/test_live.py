"""The view on a terminal: what it shows of a run, and that it goes on by itself."""

import io
import threading

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from objectives.units import GIB
from study.search import live as module
from study.search.live import Live, memory_bar
from study.search.progress import Holding

NAMES = ["stt_latency_ms", "concurrent_capacity"]
HOLDING = Holding(total_bytes=12 * GIB, by_tenant={"vllm": 6 * GIB})
WAIT_S = 60


def trial(state, **attrs):
    return create_trial(
        state=state,
        values=[12.5, 3.0] if state == TrialState.COMPLETE else None,
        params={"u": 0.5},
        distributions={"u": FloatDistribution(0, 1)},
        user_attrs=attrs,
    )


MEASURED = trial(TrialState.COMPLETE)
REFUSED = trial(TrialState.PRUNED, infeasible={"cause": "kv_cache_no_blocks", "predicted": True})
DIED = trial(TrialState.PRUNED, infeasible={"cause": "cuda_oom_serving", "predicted": False})
BROKEN = trial(TrialState.FAIL, error={"cause": "port_in_use", "message": "vllm exited with 1"})


@pytest.fixture
def view(monkeypatch):
    """Makes views that redraw themselves at once, and closes them."""
    monkeypatch.setattr(module, "_REFRESH_S", 0.005)
    opened = []

    def view(**watched):
        console = Console(file=io.StringIO(), width=90, force_terminal=True)
        opened.append(Live(console=console, **watched))
        return opened[-1]

    yield view
    for each in opened:
        each.close()


def page(live):
    """What is on the terminal now."""
    console = Console(file=io.StringIO(), width=90)
    console.print(live.render())
    return console.file.getvalue()


class Asked:
    """Tells a holding, then nothing; knows when it was asked so often."""

    def __init__(self, *told):
        self.told, self.times, self.enough = list(told), 0, threading.Event()

    def __call__(self):
        self.times += 1
        if self.times > len(self.told):
            self.enough.set()
        return self.told[self.times - 1] if self.times <= len(self.told) else None


class TestTheMemoryBar:
    def test_is_as_wide_as_asked_and_names_everybody(self):
        holding = Holding(total_bytes=12 * GIB, by_tenant={"vllm": 6 * GIB, "whisper": GIB})
        bar, legend = memory_bar(holding, width=60).plain.split("\n")
        assert len(bar) == 60
        assert bar.count("█") == 35
        assert legend == "vllm 6.0  whisper 1.0  free 5.0 of 12.0 GiB"

    def test_begins_with_whoever_holds_most(self):
        holding = Holding(total_bytes=12 * GIB, by_tenant={"whisper": GIB, "vllm": 6 * GIB})
        assert memory_bar(holding, width=60).plain.split("\n")[1].startswith("vllm 6.0  whisper")

    def test_of_more_than_the_whole_device_does_not_overflow(self):
        holding = Holding(total_bytes=GIB, by_tenant={"vllm": GIB, "other": GIB})
        bar, legend = memory_bar(holding, width=40).plain.split("\n")
        assert bar == "█" * 40
        assert legend.endswith("free 0.0 of 1.0 GiB")

    def test_of_an_empty_device_is_empty(self):
        bar, legend = memory_bar(Holding(total_bytes=GIB, by_tenant={}), width=40).plain.split("\n")
        assert bar == "░" * 40
        assert legend == "free 1.0 of 1.0 GiB"


class TestThePicture:
    def test_before_the_first_trial(self, view):
        text = page(view())
        assert "preparing" in text
        assert "starting" in text
        assert "front so far" not in text
        assert "GiB" not in text

    def test_shows_trial_phase_front_causes_and_what_is_left(self, view):
        live = view(front=lambda: [(3, "u 0.5", "12 ms, 3 requests")])
        live.on_trial_start(4, {"u": 0.5})
        live.on_phase("measure")
        live.on_trial_end(DIED, NAMES, "12 points left")
        live.on_trial_start(5, {"u": 0.6})
        live.on_phase("start vllm")
        text = page(live)
        for said in (
            "trial 5: u 0.6",
            "start vllm, ",
            "12 ms, 3 requests",
            "infeasible: cuda_oom_serving",
            "12 points left",
        ):
            assert said in text
        for gone in ("trial 4: u 0.5", "measure,"):
            assert gone not in text

    def test_between_two_trials_no_old_phase_stands_there(self, view):
        live = view()
        live.on_phase("measure")
        live.on_trial_end(MEASURED, NAMES, "")
        assert "next, " in page(live)

    def test_the_outcome_has_the_objectives_names(self, view):
        live = view()
        live.on_trial_end(MEASURED, NAMES, "")
        assert "measured: stt_latency_ms 12.5, concurrent_capacity 3" in page(live)

    def test_only_the_last_six_lines_stay(self, view):
        live = view()
        for number in range(1, 9):
            live.log(f"line {number}.")
        text = page(live)
        assert [number for number in range(1, 9) if f"line {number}." in text] == [3, 4, 5, 6, 7, 8]

    def test_a_long_line_is_cut_and_not_folded(self, view):
        live = view()
        live.log("word " * 60)
        assert page(live).count("word") < 90 / len("word ")

    def test_only_the_last_eight_settings_of_the_front_are_shown(self, view):
        live = view(front=lambda: [(n, f"setting {n}.", "") for n in range(10)])
        live.on_trial_end(MEASURED, NAMES, "")
        text = page(live)
        assert [n for n in range(10) if f"setting {n}." in text] == [2, 3, 4, 5, 6, 7, 8, 9]

    @pytest.mark.parametrize(
        ("ended", "counts"), [(MEASURED, True), (DIED, True), (REFUSED, False), (BROKEN, False)]
    )
    def test_how_long_a_trial_takes_is_told_by_those_that_launched_something(
        self, view, ended, counts
    ):
        live = view()
        live.on_trial_start(4, {"u": 0.5})
        live.on_trial_end(ended, NAMES, "")
        assert ("a trial takes" in page(live)) is counts

    @pytest.mark.parametrize(
        ("seconds", "said"), [(59.9, "0:59"), (61, "1:01"), (3599, "59:59"), (3661, "1:01:01")]
    )
    def test_time_is_told_as_a_clock_tells_it(self, seconds, said):
        assert module._clock(seconds) == said


class TestByItself:
    def test_it_asks_for_the_devices_memory_and_keeps_what_it_heard_last(self, view):
        asked = Asked(HOLDING)
        live = view(holding=asked)
        assert asked.enough.wait(WAIT_S)
        live.close()
        assert "vllm 6.0  free 6.0 of 12.0 GiB" in page(live)

    def test_where_to_look_may_be_told_later(self, view):
        live, asked = view(), Asked(HOLDING)
        live.watch(asked, lambda: [(3, "u 0.5", "12 ms")])
        assert asked.enough.wait(WAIT_S)
        live.on_trial_end(MEASURED, NAMES, "")
        live.close()
        text = page(live)
        assert "vllm 6.0" in text
        assert "12 ms" in text

    def test_it_draws_without_being_told(self, view):
        live, asked = view(), Asked()
        live.on_phase("start vllm")
        live.watch(asked, list)
        assert asked.enough.wait(WAIT_S)
        asked.enough.clear()  # a whole round more: the one before is drawn
        assert asked.enough.wait(WAIT_S)
        assert "start vllm" in live.console.file.getvalue()

    def test_when_it_closes_the_last_picture_stays_and_nobody_redraws_it(self, view):
        live = view()
        live.log("the very last word")
        live.close()
        assert "the very last word" in live.console.file.getvalue()
        assert "live view" not in [thread.name for thread in threading.enumerate()]
