"""All measurements of one point, and the one front that everybody draws from them."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from objectives.space import point_key
from study.results.findings import read_study
from study.results.pareto import nondominated
from study.results.points import (
    EVERYTHING,
    MeasuredPoint,
    intervals,
    measured_points,
    with_unsteady_settings,
)
from study.results.records import TrialRecord, read_trials
from study.samplers.bayesian.surrogate import Observations
from study.samplers.encoding import Encoding
from study.samplers.tried_points import History, points_to_repeat
from study.search import ATTR, lineage_for
from study.search.stopping import is_settled
from tests.study.fifteen import SPACE

A = {"vllm_memory_util": 0.50, "whisper_model_size": "tiny"}
B = {"vllm_memory_util": 0.55, "whisper_model_size": "tiny"}
C = {"vllm_memory_util": 0.60, "whisper_model_size": "small"}
NAMES = ("stt_latency_ms", "concurrent_capacity")


def trial(number=0, state="COMPLETE", **more):
    given = {"params": {"u": 0.5}, "values": {"ms": 10.0}, "constraints": {"kv": -1.0}, **more}
    return TrialRecord(number=number, state=state, **given)


@pytest.fixture
def study():
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.set_metric_names(list(NAMES))
    return study


def add(study, params, *values, **attrs):
    study.add_trial(
        create_trial(
            values=list(values),
            params=params,
            distributions=SPACE.distributions(),
            user_attrs=attrs,
        )
    )


def refuse(study, params, **attrs):
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params=params,
            distributions=SPACE.distributions(),
            constraints={"kv_cache_gib": 1.0},
            user_attrs=attrs,
        )
    )


def of(study, params):
    points = measured_points(read_trials(study))
    return next(each for each in points if each.point == point_key(params))


def sure(study, params):
    return intervals(measured_points(read_trials(study)), NAMES)[point_key(params)]


def test_measurements_of_one_setting_are_taken_together():
    records = [trial(0), trial(1, params={"u": 0.6}), trial(2), trial(3, state="PRUNED")]
    assert [[t.number for t in each.trials] for each in measured_points(records)] == [[0, 2], [1]]


def test_how_a_number_is_spelt_makes_no_other_setting():
    records = [trial(0, params={"u": 0.3, "n": 2}), trial(1, params={"n": 2.0, "u": 0.1 + 0.2})]
    assert len(measured_points(records)) == 1


def test_a_setting_is_doubted_only_if_every_measurement_is():
    doubted, sure = trial(0, doubts=("few samples",)), trial(1)
    setting = MeasuredPoint(point="p", trials=(doubted, sure))
    assert not setting.doubted
    assert setting.trial is sure
    assert MeasuredPoint(point="p", trials=(doubted,)).doubted


def test_a_settings_figures_are_medians():
    trials = tuple(trial(n, values={"ms": ms}) for n, ms in enumerate((10.0, 30.0, 11.0)))
    setting = MeasuredPoint(point="p", trials=trials)
    assert setting.figure("ms") == 11.0
    assert setting.values() == {"ms": pytest.approx(11.0)}
    assert setting.figure("unknown") is None


def test_a_setting_that_was_infeasible_another_time_is_doubted():
    records = [trial(0), trial(1, state="PRUNED", values=None), trial(2, params={"u": 0.6})]
    doubts = [each.doubts for each in with_unsteady_settings(records)]
    assert doubts == [("infeasible in 1 of 2 measurements of this setting",), (), ()]


class TestMedians:
    def test_of_three_measurements_the_middle_one_counts(self, study):
        for stt_ms in (44.0, 900.0, 50.0):
            add(study, A, stt_ms, 8.0)
        assert of(study, A).values() == {"stt_latency_ms": 50.0, "concurrent_capacity": 8.0}
        assert [trial.number for trial in of(study, A).trials] == [0, 1, 2]

    def test_the_noise_of_one_point_makes_the_interval_of_another(self, study):
        for stt_ms in (100.0, 110.0, 90.0, 105.0, 95.0):
            add(study, A, stt_ms, 8.0)
        add(study, B, 200.0, 8.0)
        low, high = sure(study, B)["stt_latency_ms"]
        assert 140 < low < 180
        assert 220 < high < 280
        assert high / 200 == pytest.approx(200 / low), "noise is relative"

    def test_more_measurements_make_it_narrower(self, study):
        for stt_ms in (100.0, 110.0, 90.0, 105.0, 95.0):
            add(study, A, stt_ms, 8.0)
        add(study, B, 100.0, 8.0)
        single, several = sure(study, B), sure(study, A)
        assert several["stt_latency_ms"][1] < single["stt_latency_ms"][1]

    def test_values_without_noise_are_sure(self, study):
        add(study, A, 100.0, 8.0)
        add(study, A, 110.0, 8.0)
        assert sure(study, A)["concurrent_capacity"] == (8.0, 8.0)

    def test_before_anything_is_repeated_the_trials_own_interval_counts(self, study):
        add(study, A, 100.0, 8.0, intervals={"stt_latency_ms": [95.0, 106.0]})
        found = sure(study, A)
        assert found["stt_latency_ms"] == (95.0, 106.0)
        assert found["concurrent_capacity"] == EVERYTHING

    def test_launches_that_found_it_infeasible_are_counted(self, study):
        add(study, A, 100.0, 8.0)
        refuse(study, A)
        refuse(study, A, infeasible={"cause": "kv_cache_no_blocks", "predicted": True})
        assert of(study, A).failures == 1

    def test_zero_and_negative_values_have_an_interval_too(self, study):
        for capacity in (0.0, 1.0, 2.0):
            add(study, A, 100.0, capacity)
        low, high = sure(study, A)["concurrent_capacity"]
        assert low < 0
        assert high > 1


class TestOneFront:
    """A is measured three times, once by bad luck: its mean is behind B, its median is not."""

    @pytest.fixture
    def noisy(self, study):
        # As a grid and as a person would spell it: the same point.
        near = {**A, "vllm_memory_util": 0.5000000000000001}
        add(study, A, 100.0, 8.0)
        add(study, B, 150.0, 8.0)
        add(study, C, 300.0, 9.0)
        add(study, near, 104.0, 8.0)
        add(study, A, 600.0, 8.0)
        refuse(study, C)
        return study

    @pytest.fixture
    def front(self):
        return {point_key(A), point_key(C)}

    def test_the_mean_would_give_another_one(self, noisy, front):
        means = [[(100 + 104 + 600) / 3, -8.0], [150.0, -8.0], [300.0, -9.0]]
        assert nondominated(means).tolist() == [False, True, True]
        assert point_key(B) not in front

    def test_of_the_report(self, noisy, front):
        assert {each.point for each in read_study(noisy, "").front_points} == front

    def test_of_the_model(self, noisy, front):
        history, observations = History(SPACE), Observations(Encoding(SPACE), noisy)
        history.update(noisy)
        observations.update(history)
        assert {point_key(observations.points[at]) for at in observations.front} == front

    def test_of_the_repeats(self, noisy, front):
        """A is to be measured again; C was refused once, and B is behind A."""
        assert points_to_repeat(noisy, SPACE) == [A]

    def test_of_the_stopping_rule(self, noisy):
        """What came after A's first measurement and C moved nothing: A still is where it was."""
        add(noisy, A, 100.0, 8.0)
        add(noisy, B, 150.0, 8.0)
        assert is_settled(noisy, 2, 0.03)
        add(noisy, B, 10.0, 8.0)
        add(noisy, B, 10.0, 8.0)
        add(noisy, B, 10.0, 8.0)
        assert not is_settled(noisy, 3, 0.03)

    def test_of_the_lineage(self, noisy):
        """A replicate's parent is the first trial of its point, however its numbers are spelt."""
        records = []
        for number in range(5):
            noisy.enqueue_trial(noisy.trials[number].params)
            running = noisy.ask(SPACE.distributions())
            records.append(lineage_for(noisy, running, running.params))
            running.set_user_attr(ATTR, records[-1])
            noisy.tell(running, [100.0, 8.0])
        first = records[0]["id"]
        assert [each["parents"] for each in records] == [[], [first], [first], [first], [first]]
        assert [bool(each["mutations"]) for each in records] == [False, True, True, False, False]
