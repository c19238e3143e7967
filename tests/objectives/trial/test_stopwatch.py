"""Where a trial's time goes."""

import pytest

from objectives.load import Span
from objectives.trial.stopwatch import Stopwatch


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    return Stopwatch(clock=clock)


def test_what_is_no_phase_is_other(watch, clock):
    clock.now += 0.5
    with watch.phase("start"):
        clock.now += 30
    clock.now += 0.25
    assert watch.seconds() == {"start": 30.0, "other": 0.75}


def test_starts_do_not_count_while_they_go_on_and_afterwards(watch, clock):
    clock.now += 1
    for _ in range(2):
        with watch.phase("start"):
            clock.now += 30
            assert watch.counted_s == 1
    clock.now += 5
    assert (watch.counted_s, watch.elapsed_s) == (6, 66)


def test_a_phase_that_was_not_reached_is_absent(watch, clock):
    with watch.phase("predict"):
        clock.now += 0.01
    assert set(watch.seconds()) == {"predict", "other"}


def test_a_phase_that_ends_by_an_error_is_counted(watch, clock):
    with pytest.raises(RuntimeError), watch.phase("start"):
        clock.now += 7
        raise RuntimeError
    assert watch.seconds()["start"] == 7.0


def test_a_phase_entered_twice_adds_up(watch, clock):
    for _ in range(2):
        with watch.phase("start"):
            clock.now += 2
    assert watch.seconds() == {"start": 4.0, "other": 0.0}


def test_steps_show_on_the_timeline_and_count_nowhere(watch, clock):
    with watch.phase("start"):
        clock.now += 1
        with watch.step("start whisper"):
            clock.now += 3
    assert watch.seconds() == {"start": 4.0, "other": 0.0}
    assert watch.timeline() == (
        Span(phase="start", start_s=0.0, end_s=4.0),
        Span(phase="start whisper", start_s=1.0, end_s=4.0),
    )


def test_a_stretch_timed_by_somebody_else_counts(watch, clock):
    clock.now += 50
    watch.note("warmup", Span(phase="warmup", start_s=102.0, end_s=110.0))
    watch.note("measure", Span(phase="measure", start_s=110.0, end_s=150.0))
    assert watch.seconds() == {"warmup": 8.0, "measure": 40.0, "other": 2.0}
    assert [span.phase for span in watch.timeline()] == ["warmup", "measure"]


def test_a_stretch_may_count_as_one_phase_and_be_shown_as_another(watch, clock):
    clock.now += 5
    watch.note("measure", Span(phase="drain", start_s=102.0, end_s=105.0))
    assert watch.seconds() == {"measure": 3.0, "other": 2.0}
    assert watch.timeline() == (Span(phase="drain", start_s=2.0, end_s=5.0),)


def test_of_two_that_begin_together_the_longer_one_stands_first(watch, clock):
    with watch.phase("start"), watch.step("start vllm"):
        clock.now += 0.1234567
    assert [(span.phase, span.end_s) for span in watch.timeline()] == [
        ("start vllm", 0.12346),
        ("start", 0.12346),
    ]


def test_whoever_watches_is_told_in_order(clock):
    told = []
    watch = Stopwatch(on_phase=told.append, clock=clock)
    with watch.phase("start"), watch.step("start vllm"):
        pass
    assert told == ["start", "start vllm"]
