from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from study.samplers.bayesian.surrogate import Observations
from study.samplers.encoding import Encoding
from study.samplers.tried_points import History
from tests.study.fifteen import ENDLESS, SPACE

A = {"vllm_memory_util": 0.50, "whisper_model_size": "tiny"}
B = {"vllm_memory_util": 0.55, "whisper_model_size": "tiny"}
C = {"vllm_memory_util": 0.60, "whisper_model_size": "small"}


@pytest.fixture
def study():
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.set_metric_names(["stt_latency_ms", "concurrent_capacity"])
    return study


def add(study, params, values=None, *, space=SPACE, **what):
    what.setdefault("state", TrialState.COMPLETE if values else TrialState.PRUNED)
    study.add_trial(
        create_trial(params=params, distributions=space.distributions(), values=values, **what)
    )


def seen(study, space=SPACE):
    history, observations = History(space), Observations(Encoding(space), study)
    history.update(study)
    observations.update(history)
    return observations


def test_a_maximised_objective_is_negated(study):
    add(study, A, [44.0, 8.0])
    assert seen(study).values.tolist() == [[44.0, -8.0]]


def test_replicates_are_one_row_their_median(study):
    add(study, A, [44.0, 8.0])
    add(study, B, [90.0, 9.0])
    add(study, A, [46.0, 8.0])
    add(study, A, [900.0, 8.0])
    found = seen(study)
    assert found.values.tolist() == [[46.0, -8.0], [90.0, -9.0]]
    assert found.counts.tolist() == [3.0, 1.0]
    assert found.points == [A, B]


def test_a_point_is_feasible_if_a_measurement_of_it_was_as_in_the_report(study):
    add(study, A, [44.0, 8.0])
    add(study, A, constraints={"kv": 1.0})
    add(study, B, [90.0, 9.0], constraints={"kv": 0.5})
    add(study, C, [90.0, 9.0], constraints={"kv": -0.5})
    assert seen(study).feasible.tolist() == [True, False, True]


def test_only_what_a_launch_violated_is_to_be_learned(study):
    add(study, A, constraints={"bounds": 1.0}, user_attrs={"infeasible": {"predicted": True}})
    add(study, B, constraints={"kv": 2.0, "bounds": -1.0})
    found = seen(study)
    assert found.violated == {"kv"}
    excess, known = found.excess("bounds")
    assert (excess.tolist(), known.tolist()) == ([1.0, -1.0], [0, 1])


def test_the_front_is_what_no_point_dominates_however_it_came_about(study):
    rng = np.random.default_rng(0)
    history, observations = History(ENDLESS), Observations(Encoding(ENDLESS), study)
    for number in range(120):
        params = {"vllm_memory_util": 0.3 + 0.003 * (number % 100), "beam_size": 1 + number % 7}
        add(study, params, [float(v) for v in rng.random(2)], space=ENDLESS)
        history.update(study)
        observations.update(history)
        assert len(observations.front)
    afresh = seen(study, ENDLESS)
    assert sorted(observations.front) == sorted(afresh.front)
    assert len(observations.rows) == len(observations.points) > 64
