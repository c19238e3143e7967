"""The first users' one weighted number, and where a trial's comes from."""

import inspect

import pytest
from optuna.trial import create_trial

from study.samplers.legacy_fitness import FIGURES, fitness_of, legacy_fitness

NOTHING = dict.fromkeys(FIGURES)
BEST = {
    "stt_latency_ms": 0.0,
    "llm_latency_ms": 0.0,
    "concurrent_capacity": 20,
    "oom_events": 0,
    "gpu_utilization": 70.0,
}


def score(**figures):
    """Of what was measured, the rest was not."""
    return legacy_fitness(**{**NOTHING, **figures})


def trial_with(**attrs):
    return create_trial(value=1.0, user_attrs=attrs)


class TestLegacyFitness:
    def test_the_baseline_of_the_first_users(self):
        recorded = legacy_fitness(
            stt_latency_ms=None,
            llm_latency_ms=None,
            concurrent_capacity=5,
            oom_events=0,
            gpu_utilization=90.4,
        )
        assert round(recorded, 3) == 0.309

    def test_the_winner_of_the_first_users(self):
        recorded = legacy_fitness(
            stt_latency_ms=44.0,
            llm_latency_ms=None,
            concurrent_capacity=5,
            oom_events=0,
            gpu_utilization=90.4,
        )
        assert round(recorded, 3) == 0.537

    def test_their_third_figure_is_an_illustration(self):
        computed = legacy_fitness(
            stt_latency_ms=287.3,
            llm_latency_ms=623.1,
            concurrent_capacity=8,
            oom_events=0,
            gpu_utilization=68.2,
        )
        assert round(computed, 3) == 0.577  # 0.782 was written

    def test_a_latency_beyond_its_target_scores_as_one_that_was_not_measured(self):
        figures = {"concurrent_capacity": 5, "oom_events": 0, "gpu_utilization": 90.4}
        assert legacy_fitness(
            stt_latency_ms=999.0, llm_latency_ms=1000.0, **figures
        ) == legacy_fitness(stt_latency_ms=None, llm_latency_ms=None, **figures)

    @pytest.mark.parametrize(
        ("figure", "value", "part"),
        [
            ("stt_latency_ms", 0, 0.25),
            ("stt_latency_ms", 250, 0.125),
            ("stt_latency_ms", 500, 0),
            ("stt_latency_ms", 5000, 0),
            ("llm_latency_ms", 0, 0.25),
            ("llm_latency_ms", 500, 0.125),
            ("llm_latency_ms", 1000, 0),
            ("llm_latency_ms", 5000, 0),
            ("concurrent_capacity", 0, 0),
            ("concurrent_capacity", 10, 0.10),
            ("concurrent_capacity", 20, 0.20),
            ("concurrent_capacity", 200, 0.20),
            ("oom_events", 0, 0.20),
            ("gpu_utilization", 70, 0.10),
            ("gpu_utilization", 45, 0.05),
            ("gpu_utilization", 95, 0.05),
            ("gpu_utilization", 20, 0),
            ("gpu_utilization", 120, 0),
            ("gpu_utilization", 0, 0),
        ],
    )
    def test_every_figure_gives_its_part_and_no_more(self, figure, value, part):
        assert score(**{figure: value}) == pytest.approx(part)
        rest = sum(score(**{name: BEST[name]}) for name in FIGURES if name != figure)
        assert legacy_fitness(**{**BEST, figure: value}) == pytest.approx(rest + part)

    @pytest.mark.parametrize("events", [1, 2, 0.5])
    def test_any_out_of_memory_makes_it_zero(self, events):
        assert (
            legacy_fitness(
                stt_latency_ms=1,
                llm_latency_ms=1,
                concurrent_capacity=20,
                oom_events=events,
                gpu_utilization=70,
            )
            == 0.0
        )

    def test_out_of_memory_events_that_nobody_counted_are_no_stability(self):
        assert legacy_fitness(**{**BEST, "oom_events": None}) == pytest.approx(0.80)

    def test_nothing_measured_scores_nothing(self):
        assert legacy_fitness(**NOTHING) == 0.0

    def test_it_never_leaves_zero_to_one(self):
        best = legacy_fitness(
            stt_latency_ms=0,
            llm_latency_ms=0,
            concurrent_capacity=99,
            oom_events=0,
            gpu_utilization=70,
        )
        assert best == pytest.approx(1.0)
        assert score(concurrent_capacity=-5, gpu_utilization=-300.0) == 0.0


class TestFitnessOfATrial:
    def test_the_stored_number_is_taken_as_it_is(self):
        assert fitness_of(trial_with(fitness=0.25)) == 0.25

    def test_it_follows_from_the_stored_figures(self):
        figures = {"stt_latency_ms": 44.0, "concurrent_capacity": 5, "gpu_utilization": 90.4}
        assert round(fitness_of(trial_with(**figures, oom_events=0)), 3) == 0.537

    def test_without_any_figure_there_is_none(self):
        assert fitness_of(create_trial(value=1.0)) is None

    @pytest.mark.parametrize("stored", [0.0, 0, 2])
    def test_the_stored_number_counts_before_the_figures_zero_too(self, stored):
        fitness = fitness_of(trial_with(**BEST, fitness=stored))
        assert (type(fitness), fitness) == (float, stored)

    @pytest.mark.parametrize("figure", FIGURES)
    def test_every_figure_is_read_from_the_attribute_of_its_name(self, figure):
        expected = score(**{figure: BEST[figure]})
        assert fitness_of(trial_with(**{figure: BEST[figure]})) == expected > 0

    def test_the_attributes_are_what_the_number_is_made_of(self):
        assert tuple(inspect.signature(legacy_fitness).parameters) == FIGURES

    def test_a_trial_that_ran_out_of_memory_has_none_of_the_rest(self):
        assert fitness_of(trial_with(**{**BEST, "oom_events": 1})) == 0.0

    @pytest.mark.parametrize("stored", ["0.9", True, None, [0.9]])
    def test_what_is_no_number_counts_as_not_stored(self, stored):
        assert fitness_of(trial_with(fitness=stored)) is None
        assert fitness_of(trial_with(fitness=stored, concurrent_capacity=10)) == 0.10
        assert fitness_of(trial_with(oom_events=stored)) is None
