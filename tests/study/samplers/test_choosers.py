from __future__ import annotations

from collections import Counter

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler

from objectives.errors import UsageError
from objectives.space import point_key
from study.samplers.choosers import (
    GridChooser,
    RandomChooser,
    SamplerChooser,
    nearest_allowed,
    sampled,
)
from tests.study.fifteen import CONDITIONAL, ENDLESS, SPACE, predict
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
