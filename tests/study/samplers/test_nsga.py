from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from study.samplers.nsga import Mirror, SeatedNSGAII, SeatedNSGAIII, make_nsga
from tests.study.fifteen import CONDITIONAL, SPACE, make_study, measure
from tests.study.samplers.test_candidates import ask

A = {"vllm_memory_util": 0.50, "whisper_model_size": "tiny"}
B = {"vllm_memory_util": 0.55, "whisper_model_size": "tiny"}


@pytest.fixture
def study():
    return optuna.create_study(directions=["minimize", "maximize"])


def add(study, params, values=None, *, space=SPACE, constraints=None):
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE if values else TrialState.PRUNED,
            values=values,
            params=params,
            distributions=space.distributions(),
            constraints=constraints or {},
        )
    )


class TestTheMirror:
    def test_shows_an_infeasible_trial_as_complete_with_the_worst_values(self, study):
        add(study, A, [44.0, 8.0], constraints={"kv": -1.0})
        add(study, A, [90.0, 2.0], constraints={"kv": -1.0})
        add(study, B, constraints={"kv": 2.5})
        shown = Mirror(SPACE)(ask(study)).trials
        assert [trial.state for trial in shown] == [TrialState.COMPLETE] * 3
        assert shown[2].values == [90.0, 2.0]
        assert shown[2].constraints == {"kv": 2.5}

    def test_marks_an_infeasible_trial_that_does_not_say_why(self, study):
        add(study, A, [44.0, 8.0])
        add(study, B)
        assert Mirror(SPACE)(ask(study)).trials[1].constraints == {"infeasible": 1.0}

    def test_shows_nothing_before_the_first_measurement(self, study):
        add(study, B, constraints={"kv": 2.5})
        assert Mirror(SPACE)(ask(study)).trials == []

    def test_grows_with_the_study(self, study):
        mirror = Mirror(SPACE)
        add(study, A, [44.0, 8.0])
        mirror(ask(study))
        add(study, B, [50.0, 9.0])
        assert len(mirror(ask(study)).trials) == 2

    def test_gives_every_trial_all_parameters(self, study):
        point = {"device": "cuda:0", "vllm_memory_util": 0.5}
        study.add_trial(
            create_trial(
                values=[1.0, 1.0],
                params=point,
                distributions={n: CONDITIONAL.distributions()[n] for n in point},
            )
        )
        (shown,) = Mirror(CONDITIONAL)(ask(study, space=CONDITIONAL)).trials
        assert set(shown.params) == {"device", "vllm_memory_util", "threads"}


@pytest.mark.parametrize(("third", "kind"), [(False, SeatedNSGAII), (True, SeatedNSGAIII)])
def test_the_samplers_are_optunas_with_counted_generations(third, kind):
    sampler = make_nsga(third, seed=0, population_size=4)
    assert isinstance(sampler, kind)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    for number in range(9):
        study.tell(study.ask(SPACE.distributions()), [float(number), 1.0])
    assert [len(sampler.get_population(study, g)) for g in range(4)] == [4, 4, 1, 0]


def test_infeasible_trials_fill_generations_and_are_avoided_later():
    study = make_study("nsgaii", population_size=4)
    points = measure(
        study, 12, excess=lambda p: {"kv": 0.5 if p["whisper_model_size"] == "small" else -0.5}
    )
    small = [point["whisper_model_size"] == "small" for point in points]
    assert sum(small[8:]) <= 2
