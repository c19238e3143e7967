from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from study.samplers.tournament.tournament import TournamentOptions, TournamentSampler
from study.search.stopping import Stopping, is_settled
from tests.study.fifteen import (
    DIRECTIONS,
    ENDLESS,
    SPACE,
    feasible_points,
    figures,
    make_study,
    measure,
    predict,
)


class TestTrials:
    def test_launched_ones_count_measured_or_not(self):
        study = make_study()
        stopping = Stopping(trials=6)
        measure(study, 5)
        assert stopping.reason(study) is None
        measure(study, 1)
        assert stopping.reason(study) == "the budget of 6 trials is used up"

    def test_what_arithmetic_refused_costs_nothing(self):
        study = make_study()
        refused = study.ask(SPACE.distributions())
        refused.set_user_attr("infeasible", {"cause": "kv_cache_no_blocks", "predicted": True})
        study.tell(refused, state=TrialState.PRUNED)
        assert Stopping(trials=1).reason(study) is None

    def test_a_broken_bench_costs_nothing(self):
        study = make_study()
        study.tell(study.ask(SPACE.distributions()), state=TrialState.FAIL)
        assert Stopping(trials=1).reason(study) is None

    def test_those_that_run_elsewhere_count(self):
        study = make_study()
        study.ask(SPACE.distributions())
        assert Stopping(trials=1).reason(study) is not None


class TestSeconds:
    def test_from_now(self):
        assert Stopping(timeout_s=3600).reason(make_study()) is None
        assert Stopping(timeout_s=0).reason(make_study()) == "the budget of 0 s is used up"


class TestPoints:
    def test_every_point_that_may_work_is_enough(self):
        study = make_study(predict=predict)
        stopping = Stopping(space=SPACE)
        measure(study, len(feasible_points()) - 1)
        assert stopping.reason(study) is None
        measure(study, 1)
        assert stopping.reason(study) == "every point that may work is measured"

    def test_a_point_that_waits_in_the_queue_is_still_to_come(self):
        study = make_study(predict=predict)
        measure(study, 15)
        study.enqueue_trial(feasible_points()[0])
        assert Stopping(space=SPACE).reason(study) is None

    def test_a_space_without_an_end_is_never_seen(self):
        assert Stopping(space=ENDLESS).reason(make_study(space=ENDLESS)) is None

    def test_with_another_sampler_the_space_tells(self):
        study = optuna.create_study(directions=DIRECTIONS, sampler=RandomSampler(seed=0))
        for point in SPACE.points() or []:
            assert Stopping(space=SPACE).reason(study) is None
            study.enqueue_trial(point)
            study.tell(study.ask(SPACE.distributions()), figures(point))
        assert Stopping(space=SPACE).reason(study) is not None

    def test_points_to_repeat_come_first(self):
        study = make_study(predict=predict, repeats=3)
        rng = np.random.default_rng(0)
        points = measure(study, 50, figures=lambda _: rng.normal(100.0, 10.0, size=3))
        assert len(points) == len(feasible_points()) + 3
        assert Stopping(space=SPACE).reason(study) is not None


class TestGenerations:
    @pytest.mark.parametrize("wrapped", [True, False])
    def test_a_tournament_ends_after_them(self, wrapped):
        study = make_study("tournament", population_size=4)
        if not wrapped:
            study.sampler = TournamentSampler(TournamentOptions(population_size=4), seed=0)
        stopping = Stopping(generations=2)
        measure(study, 6)
        assert stopping.reason(study) is None
        measure(study, 1)
        assert stopping.reason(study) == "all 2 generations are complete"

    def test_other_samplers_have_none(self):
        study = make_study("random")
        measure(study, 10)
        assert Stopping(generations=1).reason(study) is None


def progress(*rows: tuple[float, float], patience: int, tolerance: float = 0.01) -> bool:
    """Whether a study that measured these rows, both to be minimised, is settled."""
    study = optuna.create_study(directions=["minimize", "minimize"])
    distributions = ENDLESS.distributions()
    for number, row in enumerate(rows):
        params = {"vllm_memory_util": 0.3 + number / 1000, "beam_size": 1}
        study.add_trial(create_trial(values=row, params=params, distributions=distributions))
    return is_settled(study, patience, tolerance)


class TestTheFront:
    def test_is_settled_after_so_many_trials_without_gain(self):
        assert progress((1, 5), (5, 1), (2, 2), (6, 6), (6, 5), (5, 6), patience=3)

    def test_is_not_while_it_still_moves(self):
        assert not progress((1, 5), (5, 1), (6, 6), (6, 5), (2, 2), patience=3)

    def test_is_not_before_the_patience_is_over(self):
        assert not progress((1, 5), (6, 6), patience=3)

    def test_a_gain_below_the_tolerance_is_none(self):
        rows = ((1, 5), (5, 1), (2, 2), (6, 6), (1.99, 2))
        assert not progress(*rows, patience=2, tolerance=1e-6)
        assert progress(*rows, patience=2, tolerance=0.01)

    def test_nothing_feasible_is_nothing_settled(self):
        study = make_study()
        for _ in range(4):
            trial = study.ask(SPACE.distributions())
            trial.set_constraint("kv_cache_gib", 1.0)
            study.tell(trial, state=TrialState.PRUNED)
        assert not is_settled(study, 2, 0.01)

    def test_the_reason_says_so(self):
        study = make_study("grid")
        measure(study, 15, figures=lambda params: (1.0, 1.0, 1.0))
        reason = Stopping(patience=5).reason(study)
        assert reason == "every point that may work is measured"
        study.enqueue_trial(SPACE.points()[0])
        assert "the last 5 trials added less than 1 %" in Stopping(patience=5).reason(study)


class TestAsACallback:
    def test_it_ends_the_run(self):
        study = make_study()

        def objective(trial):
            return figures(SPACE.suggest(trial))

        study.optimize(objective, n_trials=50, callbacks=[Stopping(trials=4)])
        assert len(study.trials) == 4

    def test_every_worker_stops(self):
        study = make_study()

        def objective(trial):
            return figures(SPACE.suggest(trial))

        study.optimize(objective, n_trials=50, callbacks=[Stopping(trials=4)])
        study.optimize(objective, n_trials=50, callbacks=[Stopping(trials=4)])
        assert len(study.trials) == 5


class TestWhatIsLeft:
    def test_in_words(self):
        study = make_study(predict=predict)
        measure(study, 2)
        left = Stopping(trials=8, space=SPACE).left(study)
        assert left.startswith(f"left: 6 of 8 trials, {len(feasible_points()) - 2} points")

    def test_nothing_to_say_without_a_limit(self):
        assert Stopping().left(make_study(space=ENDLESS)) == ""
