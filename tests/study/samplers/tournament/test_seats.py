"""Who sits in which generation follows from the trials' order, and from nothing else."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from study.samplers.tournament.tournament import Seats
from tests.stores import opened

SEATED = (TrialState.COMPLETE, TrialState.PRUNED)


class Oldest(Seats):
    """Every generation descends from the oldest trial of the one before and its own parents."""

    def __init__(self, population_size=3, carried=0):
        super().__init__(population_size=population_size)
        self.carried = carried
        self.selected = []
        self.depth = self.deepest = 0

    @property
    def newcomers(self):
        return super().newcomers - self.carried

    def select_parent(self, study, generation):
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        parents = self.get_parent_population(study, generation - 1)
        self.depth -= 1
        self.selected.append(generation)
        return [*parents, self.get_population(study, generation - 1)[0]]

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution):
        return RandomSampler(seed=0).sample_independent(
            study, trial, param_name, param_distribution
        )


def ended(state=TrialState.COMPLETE):
    """A trial that has a point."""
    return create_trial(
        state=state,
        value=1.0 if state == TrialState.COMPLETE else None,
        params={"x": 0.5},
        distributions={"x": FloatDistribution(0, 1)},
    )


def study_of(*states):
    study = optuna.create_study()
    study.add_trials([ended(state) for state in states])
    return study


def numbers(trials):
    return [trial.number for trial in trials]


class TestCounting:
    @pytest.mark.parametrize(
        ("carried", "generations"),
        [(0, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]), (1, [0, 0, 0, 1, 1, 2, 2, 3, 3, 4])],
    )
    def test_the_first_generation_is_full_and_every_later_one_has_the_newcomers(
        self, carried, generations
    ):
        sampler = Oldest(3, carried)
        assert [sampler.generation_of_seat(seat) for seat in range(10)] == generations

    @pytest.mark.parametrize(("carried", "seats"), [(0, [0, 3, 6, 9]), (1, [0, 3, 5, 7])])
    def test_every_generation_has_a_first_seat(self, carried, seats):
        sampler = Oldest(3, carried)
        assert [sampler.first_seat(generation) for generation in range(4)] == seats

    @pytest.mark.parametrize("carried", [0, 1, 2])
    def test_between_two_first_seats_all_are_of_the_generation(self, carried):
        sampler = Oldest(4, carried)
        for generation in range(6):
            seats = range(sampler.first_seat(generation), sampler.first_seat(generation + 1))
            assert {sampler.generation_of_seat(seat) for seat in seats} == {generation}

    def test_unless_somebody_is_carried_all_are_newcomers(self):
        assert Oldest(7).newcomers == 7


class TestWhoIsSeated:
    def test_measured_and_infeasible_trials_are_and_broken_or_waiting_ones_are_not(self):
        study = study_of(
            TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE
        )
        study.ask({"x": FloatDistribution(0, 1)})
        study.enqueue_trial({"x": 0.1})
        assert numbers(Oldest().seated(study)) == [0, 2, 3]

    def test_a_trial_without_a_point_is_not(self):
        study = study_of(TrialState.COMPLETE)
        study.tell(study.ask(), state=TrialState.PRUNED)
        study.add_trial(ended())
        assert numbers(Oldest().seated(study)) == [0, 2]

    def test_they_sit_by_number_in_whatever_order_they_ended(self):
        study = optuna.create_study()
        trials = [study.ask({"x": FloatDistribution(0, 1)}) for _ in range(3)]
        for trial in (trials[2], trials[0], trials[1]):
            study.tell(trial, 1.0)
        assert numbers(Oldest().seated(study)) == [0, 1, 2]

    def test_a_baseline_that_was_enqueued_sits_like_any_other(self):
        study = optuna.create_study()
        study.enqueue_trial({"x": 0.5})
        study.tell(study.ask({"x": FloatDistribution(0, 1)}), 1.0)
        assert numbers(Oldest().get_population(study, 0)) == [0]


class TestTheGenerationOfATrial:
    def test_that_ended_is_that_of_its_seat(self):
        states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED] * 2
        study, sampler = study_of(*states), Oldest(2)
        generations = {
            trial.number: sampler.get_trial_generation(study, trial)
            for trial in study.trials
            if trial.state in SEATED
        }
        assert generations == {0: 0, 2: 0, 3: 1, 5: 1}

    @pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
    def test_that_runs_is_the_one_it_would_sit_in_if_it_ended_next(self, state):
        study, sampler = study_of(TrialState.COMPLETE, state), Oldest(2)
        study.ask({"x": FloatDistribution(0, 1)})
        expected = 0 if state == TrialState.FAIL else 1
        assert sampler.get_trial_generation(study, study.trials[2]) == expected

    def test_of_a_retry_is_that_of_the_trial_that_broke(self):
        study, sampler = study_of(TrialState.COMPLETE, TrialState.FAIL), Oldest(2)
        assert sampler.get_trial_generation(study, study.trials[1]) == 0
        study.add_trial(ended())
        assert sampler.get_trial_generation(study, study.trials[2]) == 0

    def test_that_overshot_its_generation_is_the_next(self):
        study, sampler = study_of(*SEATED), Oldest(3)
        running = [study.ask({"x": FloatDistribution(0, 1)}) for _ in range(3)]
        asked = [sampler.get_trial_generation(study, study.trials[t.number]) for t in running]
        assert asked == [0, 0, 0]  # each of them could have the last seat
        for trial in reversed(running):
            study.tell(trial, 1.0)
        told = [sampler.get_trial_generation(study, study.trials[t.number]) for t in running]
        assert told == [0, 1, 1]

    def test_is_counted_and_not_stored(self):
        study, sampler = study_of(*SEATED * 3), Oldest(2)
        for trial in study.trials:
            sampler.get_trial_generation(study, trial)
        assert all(trial.system_attrs == {} for trial in study.trials)
        assert Oldest(3).get_trial_generation(study, study.trials[2]) == 0


class TestAPopulation:
    @pytest.mark.parametrize(
        ("carried", "populations"),
        [(0, [[0, 1, 2], [3, 4, 5], [6], []]), (1, [[0, 1, 2], [3, 4], [5, 6], []])],
    )
    def test_is_who_sits_in_the_generation_so_far(self, carried, populations):
        study, sampler = study_of(*[TrialState.COMPLETE] * 7), Oldest(3, carried)
        found = [numbers(sampler.get_population(study, generation)) for generation in range(4)]
        assert found == populations

    def test_holds_its_infeasible_trials_and_skips_the_broken_ones(self):
        study = study_of(TrialState.PRUNED, TrialState.FAIL, TrialState.PRUNED)
        assert numbers(Oldest(2).get_population(study, 0)) == [0, 2]


class TestParents:
    def test_the_first_generation_has_none(self):
        sampler = Oldest()
        assert sampler.get_parent_population(study_of(*SEATED * 3), 0) == []
        assert sampler.selected == []

    def test_come_from_the_generation_before(self):
        study, sampler = study_of(*SEATED * 3), Oldest(2)
        assert numbers(sampler.get_parent_population(study, 1)) == [0]
        assert numbers(sampler.get_parent_population(study, 3)) == [0, 2, 4]

    def test_are_selected_once_for_every_generation_the_earliest_first(self):
        study, sampler = study_of(*SEATED * 4), Oldest(2)
        sampler.get_parent_population(study, 2)
        assert sampler.selected == [1, 2]
        for generation in (1, 4, 3, 4):
            sampler.get_parent_population(study, generation)
        assert sampler.selected == [1, 2, 3, 4]

    def test_are_the_same_for_every_worker_and_after_a_restart(self, tmp_path):
        url = f"sqlite:///{tmp_path}/s.db"
        study = optuna.create_study(study_name="s", storage=opened(url))
        study.add_trials([ended()] * 6)
        parents = numbers(Oldest(2).get_parent_population(study, 3))
        again, sampler = optuna.load_study(study_name="s", storage=opened(url)), Oldest(2)
        assert numbers(sampler.get_parent_population(again, 3)) == parents == [0, 2, 4]
        assert sampler.selected == []

    def test_of_a_long_study_that_is_opened_again_are_selected_without_descending(self):
        study, sampler = study_of(*[TrialState.PRUNED] * 80), Oldest(2)
        assert numbers(sampler.get_parent_population(study, 40)) == list(range(0, 80, 2))
        assert sampler.selected == list(range(1, 41))
        assert sampler.deepest == 1
