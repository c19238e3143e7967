"""The loop around the trials, over an objective that judges in this process."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from objectives.errors import BenchError, OrphanError, UsageError
from objectives.space import SearchSpace, point_key
from objectives.units import Scalar
from storage.trials import this_worker
from study.config.study_config import StudyConfig, checked
from study.results.records import is_launched
from study.samplers import ATTEMPTS
from study.samplers.predictions import PointPrediction, Predict
from study.search.loop import SMALL_SPACE, Search, run_search
from study.search.progress import Lines
from tests.study.fifteen import (
    SIZES,
    SPACE,
    UTILISATIONS,
    excess,
    feasible_points,
    figures,
    make_study,
    predict,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)

BASELINE = {"vllm_memory_util": 0.55, "whisper_model_size": "tiny"}
CONTENT = {
    "name": "mine",
    "vllm": {"model": "some/model"},
    "search_space": {"vllm_memory_util": UTILISATIONS, "whisper_model_size": SIZES},
    "baseline": BASELINE,
}
CANNOT_WORK = 15 - len(feasible_points())

Breaks = Callable[[Mapping[str, Scalar], int], bool]
"""Whether the bench breaks at a point that was tried so often before."""


def config(**changes: Any) -> StudyConfig:
    return checked({**CONTENT, **changes}, source=None)


class Judge:
    """Tells of a trial what the real objective tells; where asked to, it breaks."""

    def __init__(
        self,
        breaks: Breaks = lambda params, tries: False,
        error: BenchError | None = None,
        *,
        space: SearchSpace = SPACE,
        predict: Predict = predict,
        launched: bool = False,
        figures: Callable[[Mapping[str, Scalar]], tuple[float, ...]] = figures,
    ) -> None:
        self.breaks, self.space, self.predict, self.figures = breaks, space, predict, figures
        self.error = error or BenchError("vllm exited with 1")
        self.launched = launched  # it takes a launch to see what is infeasible
        self.tries: Counter[tuple[tuple[str, Scalar], ...]] = Counter()

    def __call__(self, trial: optuna.Trial) -> tuple[float, ...]:
        params = self.space.suggest(trial)
        tries = self.tries[point_key(params)]
        self.tries[point_key(params)] += 1
        if self.breaks(params, tries):
            told = {"type": type(self.error).__name__, "cause": self.error.cause}
            trial.set_user_attr("error", {**told, "message": str(self.error)})
            raise self.error
        if self.predict(params).is_infeasible:
            reason = {"cause": "kv_cache_no_blocks", "evidence": "0.5 GiB short"}
            trial.set_user_attr("infeasible", {**reason, "predicted": not self.launched})
            raise optuna.TrialPruned
        return self.figures(params)


def unknown(params: Mapping[str, Scalar]) -> PointPrediction:
    return PointPrediction()


def always(params: Mapping[str, Scalar], tries: int) -> bool:
    return True


def at_baseline(params: Mapping[str, Scalar], tries: int) -> bool:
    return params == BASELINE


def at_baseline_once(params: Mapping[str, Scalar], tries: int) -> bool:
    return params == BASELINE and tries == 0


@dataclass
class Run:
    """What became of a run."""

    healthy: bool
    said: str


def run(
    study: optuna.Study,
    judge: Callable[[optuna.Trial], tuple[float, ...]] | None = None,
    *,
    conf: StudyConfig | None = None,
    attrs: Mapping[str, object] | None = None,
    predict: Predict | None = predict,
    **limits: Any,
) -> Run:
    out = io.StringIO()
    search = Search(
        config=conf or config(),
        study=study,
        objective=judge or Judge(),
        attrs=attrs or {},
        predict=predict,
    )
    healthy = run_search(search, Lines(out=out), **limits)
    return Run(healthy, out.getvalue())


def points(study: optuna.Study) -> list[dict[str, Scalar]]:
    return [SPACE.spelt(trial.params) for trial in study.trials]


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def launched(study: optuna.Study) -> int:
    return sum(map(is_launched, study.trials))


class TestTheQueue:
    def test_the_baseline_comes_first_and_is_marked(self):
        study = make_study(predict=predict)
        run(study, trials=3)
        assert points(study)[0] == BASELINE
        assert [trial.user_attrs.get("baseline") for trial in study.trials[:3]] == [
            True,
            None,
            None,
        ]

    def test_without_a_baseline_the_sampler_begins(self):
        study = make_study(predict=predict)
        run(study, trials=1, conf=replace(config(), baseline=None))
        assert "baseline" not in study.trials[0].user_attrs

    def test_a_study_that_goes_on_does_not_begin_with_the_baseline_again(self):
        study = make_study(predict=predict)
        for _ in range(2):
            run(study, trials=2)
        assert points(study).count(BASELINE) == 1

    def test_a_trial_whose_worker_is_gone_is_ended_and_its_point_comes_first(self):
        study = make_study(predict=predict)
        study.enqueue_trial(BASELINE)
        SPACE.suggest(cut_off := study.ask())
        cut_off.set_user_attr("worker", {**this_worker(), "began": 0.0})
        said = run(study, trials=1).said
        assert "trial 0 was cut off; its point is measured again" in said
        assert states(study)[:2] == ["FAIL", "COMPLETE"]
        assert points(study)[1] == BASELINE

    def test_the_point_of_an_interrupted_trial_comes_first(self):
        study = make_study(predict=predict)
        study.enqueue_trial(BASELINE)
        SPACE.suggest(interrupted := study.ask())
        interrupted.set_user_attr("error", {"cause": "interrupted"})
        study.tell(interrupted, state=TrialState.FAIL)
        said = run(study, trials=1).said
        assert "trial 0 was interrupted; its point is measured again" in said
        assert study.trials[1].user_attrs["retry_of"] == 0
        assert points(study)[1] == BASELINE


class TestAnOrdinaryRun:
    def test_measures_every_point_that_may_work_and_says_so(self):
        study = make_study(predict=predict)
        ended = run(study)
        assert ended.healthy
        assert launched(study) == len(feasible_points())
        assert "every point that may work is measured" in ended.said

    def test_tells_the_outcome_of_every_trial_by_the_objectives_names_and_what_is_left(self):
        said = run(make_study(predict=predict), trials=2).said
        assert "trial 0: measured: stt_latency_ms 62, llm_latency_ms 535, concurr" in said
        assert "left: 1 of 2 trials" in said
        assert "left: 0 of 2 trials" in said

    def test_calls_back_after_every_trial_whatever_became_of_it(self):
        study, ended = make_study(predict=predict), []
        run(
            study,
            Judge(at_baseline_once),
            on_trial_end=lambda study: ended.append(
                sum(t.state.is_finished() for t in study.trials)
            ),
        )
        assert set(states(study)) == {"FAIL", "COMPLETE", "PRUNED"}
        assert ended == list(range(1, len(study.trials) + 1))

    def test_an_ended_study_launches_nothing_more(self):
        study = make_study(predict=predict)
        run(study)
        before = states(study)
        ended = run(study)
        assert ended.healthy
        assert states(study) == before
        assert "every point that may work is measured" in ended.said

    def test_a_bug_is_not_taken_for_a_broken_bench(self):
        def objective(trial: optuna.Trial) -> tuple[float, ...]:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run(make_study(), objective)


class TestABrokenBench:
    def test_a_failed_trials_point_is_tried_again_at_once(self):
        study = make_study(predict=predict)
        ended = run(study, Judge(at_baseline_once), trials=1)
        assert ended.healthy
        assert "trial 0 will be tried again" in ended.said
        assert states(study)[:2] == ["FAIL", "COMPLETE"]
        assert points(study)[:2] == [BASELINE, BASELINE]

    def test_a_point_that_fails_too_often_is_left_alone_and_the_rest_is_measured(self):
        study = make_study(predict=predict)
        broken = feasible_points()[0]
        ended = run(study, Judge(lambda params, tries: params == broken))
        assert ended.healthy
        failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
        assert [SPACE.spelt(trial.params) for trial in failed] == [broken] * ATTEMPTS
        assert f"trial {failed[-1].number} failed too often and is left alone" in ended.said
        assert launched(study) == len(feasible_points()) - 1

    def test_where_nothing_works_the_bench_stops_instead_of_blaming_candidates(self):
        study = make_study(predict=predict)
        ended = run(study, Judge(always))
        assert not ended.healthy
        assert "nothing works on this bench; see the last trial's log" in ended.said
        assert states(study) == ["FAIL"] * ATTEMPTS
        assert points(study) == [BASELINE] * ATTEMPTS

    @pytest.mark.parametrize(("by_launch", "goes_on"), [(True, True), (False, False)])
    def test_a_server_that_refused_a_candidate_shows_that_the_bench_works(self, by_launch, goes_on):
        """What arithmetic refused shows nothing: no server was started for it."""
        study, refused = make_study(), {"vllm_memory_util": 0.40, "whisper_model_size": "tiny"}
        broken = Judge(lambda params, tries: params != refused, launched=by_launch)
        ended = run(study, broken, conf=config(baseline=refused), predict=None)
        assert (len(study.trials) > 1 + ATTEMPTS) is goes_on
        assert ended.healthy is goes_on
        assert ("nothing works" in ended.said) is not goes_on

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (OrphanError("2 GiB are not back"), "the bench stops: 2 GiB are not back"),
            (
                BenchError("vllm: the device reported XID 79", cause="device_fault"),
                "the device is at fault, the bench stops: vllm: the device reported XID 79",
            ),
        ],
    )
    def test_on_what_another_trial_cannot_cure_the_bench_stops_at_once(self, error, said):
        study = make_study(predict=predict)
        third = feasible_points()[2]
        conf = config(baseline=third)
        ended = run(study, Judge(lambda params, tries: params == third, error), conf=conf)
        assert not ended.healthy
        assert said in ended.said
        assert states(study) == ["FAIL"]

    def test_it_stops_for_that_although_much_has_worked(self):
        study = make_study(predict=predict)
        orphan = Judge(lambda params, tries: params == feasible_points()[0], OrphanError("left"))
        assert not run(study, orphan).healthy
        assert states(study)[-1] == "FAIL"
        assert launched(study) > 0


def integers(most: int) -> StudyConfig:
    """A space of so many points, the first of which is known not to work."""
    return config(
        search_space={"seqs": {"bind": "vllm.args.max-num-seqs", "low": 1, "high": most}},
        baseline={"seqs": 2},
    )


def not_one(params: Mapping[str, Scalar]) -> PointPrediction:
    return PointPrediction(feasible=params["seqs"] != 1, certain=True)


class TestPointsThatCannotWork:
    def test_are_recorded_after_the_rest_each_once_with_its_cause(self):
        study = make_study(predict=predict)
        run(study)
        measured = len(feasible_points())
        assert states(study) == ["COMPLETE"] * measured + ["PRUNED"] * CANNOT_WORK
        assert len(set(map(point_key, points(study)))) == 15
        reasons = [trial.user_attrs["infeasible"] for trial in study.trials[measured:]]
        assert {reason["cause"] for reason in reasons} == {"kv_cache_no_blocks"}
        assert all(max(excess(point).values()) > 0 for point in points(study)[measured:])

    def test_are_recorded_too_when_the_budget_is_used_up(self):
        study = make_study(predict=predict)
        ended = run(study, trials=1)
        assert states(study) == ["COMPLETE"] + ["PRUNED"] * CANNOT_WORK
        assert "the budget of 1 trials is used up" in ended.said

    def test_are_recorded_once_however_often_the_study_goes_on(self):
        study = make_study(predict=predict)
        for _ in range(3):
            run(study, trials=1)
        assert states(study).count("PRUNED") == CANNOT_WORK

    def test_cost_nothing_of_the_budget(self):
        study = make_study(predict=predict)
        conf = config(baseline={"vllm_memory_util": 0.40, "whisper_model_size": "tiny"})
        run(study, trials=2, conf=conf)
        assert states(study)[:3] == ["PRUNED", "COMPLETE", "COMPLETE"]
        assert launched(study) == 2

    def test_are_unknown_where_nothing_predicts(self):
        study = make_study()
        run(study, Judge(predict=unknown), trials=2, predict=None)
        assert len(study.trials) == 2

    @pytest.mark.parametrize(("size", "recorded"), [(SMALL_SPACE, 1), (SMALL_SPACE + 1, 0)])
    def test_are_recorded_in_a_small_space_only(self, size, recorded):
        conf = integers(size)
        study = make_study("random", space=conf.space, predict=not_one)
        judge = Judge(space=conf.space, predict=not_one, figures=lambda params: (1.0, 1.0, 1.0))
        run(study, judge, trials=2, conf=conf, predict=not_one)
        assert states(study) == ["COMPLETE", "COMPLETE"] + ["PRUNED"] * recorded


ATTRS = {
    "load": {"measure_s": 60.0, "trace_sha256": "aa"},
    "weights": "real",
    "device": {"uuid": "GPU-1", "name": "NVIDIA GeForce RTX 3060", "total_bytes": 12},
    "replay": "january.csv",
    "objectives": {"gpu_utilization": {"direction": "minimize", "target": 70.0}},
    "constraints": ["bounds", "kv_cache_gib"],
}
OTHER = {
    "load": {"measure_s": 60.0, "trace_sha256": "bb"},
    "weights": "dummy",
    "device": {"uuid": "GPU-2", "name": "NVIDIA GeForce RTX 3060", "total_bytes": 12},
    "replay": "february.csv",
    "objectives": {"gpu_utilization": {"direction": "minimize", "target": 80.0}},
    "constraints": ["bounds", "kv_cache_gib", "slo_llm_latency_ms"],
}


class TestOtherConditions:
    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("load", "load"),
            ("weights", "weights"),
            ("device", "device"),
            ("replay", "table"),
            ("objectives", "objectives"),
            ("constraints", "constraints"),
        ],
    )
    def test_are_refused_by_name_and_change_nothing(self, key, said):
        study = make_study(predict=predict)
        run(study, trials=1, attrs=ATTRS)
        before = len(study.trials)
        with pytest.raises(UsageError) as refused:
            run(study, attrs={**ATTRS, key: OTHER[key]})
        assert str(refused.value) == (
            f"study 'mine' was measured with another {said}; give this one another --study-name"
        )
        assert len(study.trials) == before
        assert study.user_attrs == ATTRS

    @pytest.mark.parametrize("key", ["load", "device"])
    def test_are_refused_too_where_now_there_is_none(self, key):
        """A measured study cannot go on from a table."""
        study = make_study(predict=predict)
        run(study, trials=1, attrs={key: ATTRS[key]})
        with pytest.raises(UsageError, match=f"another {key}"):
            run(study, attrs={"weights": "replay"})

    def test_the_same_device_is_known_by_its_uuid_and_its_facts_are_kept_up_to_date(self):
        study = make_study(predict=predict)
        run(study, trials=1, attrs=ATTRS)
        grown = {**ATTRS["device"], "total_bytes": 16}
        run(study, trials=1, attrs={**ATTRS, "device": grown})
        assert launched(study) == 2
        assert study.user_attrs["device"]["total_bytes"] == 16

    def test_concern_nobody_as_long_as_nothing_was_measured(self):
        study = make_study(predict=predict)
        for key, value in ATTRS.items():
            study.set_user_attr(key, value)
        run(study, trials=1, attrs=OTHER)
        assert study.user_attrs == OTHER

    def test_a_constraint_that_a_newer_version_adds_is_none(self):
        study = make_study(predict=predict)
        run(study, trials=1, attrs=ATTRS)
        newer = ["bounds", "kv_cache_gib", "start_refused"]
        run(study, trials=1, attrs={**ATTRS, "constraints": newer})
        assert launched(study) == 2
        assert study.user_attrs["constraints"] == newer

    def test_what_is_no_condition_may_change(self):
        study = make_study(predict=predict)
        for engine in ("0.11.0", "0.32.0"):
            run(study, trials=1, attrs={**ATTRS, "engines": {"vllm": engine}})
        assert study.user_attrs["engines"] == {"vllm": "0.32.0"}


class TestLimits:
    def test_trials_of_the_command_line_count_from_now_on(self):
        study = make_study(predict=predict)
        for expected in (2, 4):
            run(study, trials=2)
            assert launched(study) == expected

    def test_trials_of_the_configuration_count_all_of_the_study(self):
        study, conf = make_study(predict=predict), config(budget={"trials": 3})
        for _ in range(2):
            ended = run(study, conf=conf)
            assert launched(study) == 3
        assert "the budget of 3 trials is used up" in ended.said

    def test_the_command_line_stands_before_the_configuration(self):
        study, conf = make_study(predict=predict), config(budget={"trials": 1})
        run(study, trials=3, conf=conf)
        assert launched(study) == 3

    @pytest.mark.parametrize(
        ("configured_s", "limit_s"), [(1e-9, None), (None, 1e-9), (3600, 1e-9)]
    )
    def test_when_the_time_is_used_up_nothing_is_launched(self, configured_s, limit_s):
        study, conf = make_study(predict=predict), config(budget={"timeout_s": configured_s})
        ended = run(study, timeout_s=limit_s, conf=conf, predict=None)
        assert states(study) == ["WAITING"]
        assert ended.healthy
        assert "the budget of 1e-09 s is used up" in ended.said

    def test_more_time_on_the_command_line_stands_before_the_configuration(self):
        study, conf = make_study(predict=predict), config(budget={"timeout_s": 1e-9})
        run(study, trials=1, timeout_s=3600, conf=conf)
        assert launched(study) == 1

    def test_a_tournament_ends_after_its_generations(self):
        study = make_study("tournament", population_size=4)
        conf = config(sampler="tournament", budget={"generations": 1})
        ended = run(study, conf=conf, predict=None)
        assert len(study.trials) == 4
        assert "all 1 generations are complete" in ended.said

    def test_a_front_that_no_longer_moves_ends_the_run(self):
        study, conf = make_study("grid"), config(budget={"patience": 3, "tolerance": 0.2})
        steady = Judge(predict=unknown, figures=lambda params: (1.0, 1.0, 1.0))
        ended = run(study, steady, conf=conf, predict=None)
        assert len(study.trials) == 4
        assert "the last 3 trials added less than 20 %" in ended.said
