from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from objectives.space import SearchSpace, point_key
from study.samplers.predictions import PointPrediction, PointPredictions
from study.samplers.sampling_context import LOOK_LIMIT, SamplingContext
from study.samplers.tried_points import History
from tests.study.fifteen import ENDLESS, SPACE, feasible_points, parameter, predict

A = {"vllm_memory_util": 0.50, "whisper_model_size": "tiny"}
B = {"vllm_memory_util": 0.45, "whisper_model_size": "tiny"}


def ask(study, *, space=SPACE, predict=None, fixed=None, seed=0):
    history = History(space)
    history.update(study)
    points = space.points()
    keyed = {point_key(each): each for each in points or []}
    return SamplingContext(
        study=study,
        trial=create_trial(state=TrialState.WAITING),
        space=space,
        history=history,
        predictions=PointPredictions(space, predict),
        rng=np.random.default_rng(seed),
        fixed=fixed or {},
        remaining=None
        if points is None
        else {k: p for k, p in keyed.items() if k not in history.counts},
    )


@pytest.fixture
def study():
    return optuna.create_study(directions=["minimize", "maximize"])


def end(study, params, *, values=None, state=TrialState.COMPLETE):
    study.enqueue_trial(params)
    trial = study.ask(SPACE.distributions())
    study.tell(trial, values or [1.0, 1.0] if state == TrialState.COMPLETE else None, state=state)


class TestCandidates:
    def test_are_the_points_that_are_not_doomed(self, study):
        context = ask(study, predict=predict)
        assert context.candidates() == feasible_points()
        assert context.sees_all

    def test_leave_out_what_was_measured_and_what_is_being_measured(self, study):
        end(study, A)
        study.enqueue_trial(B)
        study.ask(SPACE.distributions())
        candidates = ask(study).candidates()
        assert len(candidates) == 13
        assert A not in candidates
        assert B not in candidates

    def test_come_again_only_when_nothing_else_is_left(self, study):
        end(study, A, state=TrialState.FAIL)
        assert A not in ask(study).candidates()
        for point in SPACE.points() or []:
            if point != A:
                end(study, point)
        assert ask(study).candidates() == [A]

    def test_keep_what_the_trial_has_to_use(self, study):
        candidates = ask(study, fixed={"whisper_model_size": "base"}).candidates()
        assert {point["whisper_model_size"] for point in candidates} == {"base"}
        assert len(candidates) == 5

    def test_of_a_large_space_are_a_sample(self, study):
        wide = SearchSpace(
            (parameter("len", "vllm.args.max-model-len", low=1, high=5000, integer=True),)
        )
        one, other = ask(study, space=wide, seed=1), ask(study, space=wide, seed=2)
        assert len(one.candidates()) == LOOK_LIMIT
        assert not one.sees_all
        assert one.candidates() != other.candidates()

    def test_there_are_none_where_the_space_has_no_end(self, study):
        assert ask(study, space=ENDLESS).candidates() == []


class TestDrawing:
    def test_gives_different_points_that_may_be_proposed(self, study):
        points = ask(
            study,
            space=ENDLESS,
            predict=lambda p: PointPrediction(feasible=p["vllm_memory_util"] < 0.5, certain=True),
        ).drawn(20)
        assert len({point_key(point) for point in points}) == 20
        assert all(point["vllm_memory_util"] < 0.5 for point in points)

    def test_gives_the_least_bad_point_where_all_are_doomed(self, study):
        (point,) = ask(
            study,
            space=ENDLESS,
            predict=lambda p: PointPrediction(
                feasible=False, certain=True, excess={"kv": 1.0 - float(p["vllm_memory_util"])}
            ),
        ).drawn(5)
        assert point["vllm_memory_util"] > 0.69

    def test_keeps_what_the_trial_has_to_use(self, study):
        points = ask(study, space=ENDLESS, fixed={"beam_size": 5}).drawn(3)
        assert {point["beam_size"] for point in points} == {5}


class TestWhatIsAllowed:
    def test_is_not_what_is_doomed_taken_or_against_what_is_fixed(self, study):
        end(study, A)
        context = ask(study, predict=predict, fixed={"whisper_model_size": "tiny"})
        assert context.allows(B)
        assert not context.allows(A)
        assert not context.allows({**B, "vllm_memory_util": 0.40})
        assert not context.allows({**B, "whisper_model_size": "base"})


def test_a_maximised_objective_is_known_by_its_name(study):
    study.set_metric_names(["stt_latency_ms", "concurrent_capacity"])
    context = ask(study)
    assert context.maximises("concurrent_capacity")
    assert not context.maximises("stt_latency_ms")
    assert not context.maximises("wer")


def test_asked_again_it_lists_anew(study):
    context = ask(study)
    before = context.candidates()
    again = replace(context)
    assert again.candidates() == before
    assert again.candidates() is not before
