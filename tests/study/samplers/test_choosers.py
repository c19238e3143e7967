from __future__ import annotations

from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from objectives.errors import UsageError
from objectives.space import point_key
from study.samplers.choosers import (
    GridChooser,
    HaltonChooser,
    Mirror,
    RandomChooser,
    SamplerChooser,
    SeatedNSGAII,
    SeatedNSGAIII,
    existing,
    make_nsga,
    nearest_allowed,
    sampled,
)
from tests.study.fifteen import CONDITIONAL, ENDLESS, SPACE, make_study, measure, predict
from tests.study.samplers.test_sampling_context import ask

A = {"vllm_memory_util": 0.50, "whisper_model_size": "tiny"}


@pytest.fixture
def study():
    return optuna.create_study(directions=["minimize", "maximize"])


def test_chance_gives_every_point_its_share(study):
    drawn = Counter(point_key(RandomChooser().choose(ask(study, seed=seed))) for seed in range(600))
    assert len(drawn) == 15
    assert min(drawn.values()) > 15


def test_a_grid_goes_in_order(study):
    assert GridChooser(SPACE).choose(ask(study)) == (SPACE.points() or [])[0]


def test_a_grid_of_an_endless_space_is_refused_by_the_name_of_the_endless_parameter():
    with pytest.raises(
        UsageError, match=r"found grid, .*: ?vllm_memory_util|vllm_memory_util has no"
    ):
        GridChooser(ENDLESS)


def test_a_sequence_goes_by_the_number_of_the_trial(study):
    chooser = HaltonChooser(SPACE, seed=0)
    assert chooser.choose(ask(study)) == HaltonChooser(SPACE, seed=0).choose(ask(study))
    assert SPACE.points().count(chooser.choose(ask(study))) == 1


class Stubborn(RandomSampler):
    """Always says the same."""

    def sample_independent(self, study, trial, param_name, param_distribution):
        return {"vllm_memory_util": 0.40, "whisper_model_size": "base"}[param_name]


def test_a_sampler_that_insists_gets_the_nearest_point_that_may_be_proposed(study):
    chosen = SamplerChooser(lambda seed: Stubborn()).choose(ask(study, predict=predict))
    assert chosen == {"vllm_memory_util": 0.45, "whisper_model_size": "base"}


def test_a_sampler_is_made_from_a_seed_of_the_trial(study):
    seeds = []

    def make(seed):
        seeds.append(seed)
        return RandomSampler(seed=seed)

    chooser = SamplerChooser(make)
    for seed in (0, 0, 1):
        chooser.choose(ask(study, seed=seed))
    assert seeds[0] == seeds[1] != seeds[2]


def test_what_a_sampler_leaves_out_is_asked_for_alone(study):
    points = [sampled(ask(study, space=CONDITIONAL), RandomSampler(seed=s)) for s in range(30)]
    assert all(("threads" in point) == (point["device"] == "cpu") for point in points)
    assert {point["device"] for point in points} == {"cpu", "cuda:0"}


def test_what_does_not_exist_is_left_out():
    assert existing(CONDITIONAL, {"device": "cuda:0", "vllm_memory_util": 0.5, "threads": 4}) == {
        "device": "cuda:0",
        "vllm_memory_util": 0.5,
    }


class TestTheNearestPoint:
    def test_is_the_wanted_one_if_it_may_be_proposed(self, study):
        assert nearest_allowed(ask(study), A) == A

    def test_is_one_step_away_if_it_is_doomed(self, study):
        wanted = {**A, "vllm_memory_util": 0.40}
        assert nearest_allowed(ask(study, predict=predict), wanted) == {
            **A,
            "vllm_memory_util": 0.45,
        }

    def test_is_walked_to_in_an_endless_space(self, study):
        taken = {"vllm_memory_util": 0.5, "beam_size": 4}
        study.enqueue_trial(taken)
        near = nearest_allowed(ask(study, space=ENDLESS), taken)
        assert near != taken
        assert np.isclose(near["vllm_memory_util"], 0.5, atol=0.2)


A = {"vllm_memory_util": 0.50, "whisper_model_size": "tiny"}
B = {"vllm_memory_util": 0.55, "whisper_model_size": "tiny"}


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
