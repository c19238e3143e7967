"""The objective of a study: what it adds to a trial, on servers that are real processes."""

from __future__ import annotations

import os
from types import SimpleNamespace

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from objectives.memory.calibration import Calibration
from objectives.telemetry.watch import Telemetry
from objectives.trial.stages import TrialStages
from objectives.trial.stopwatch import Stopwatch
from storage.artifacts import open_artifacts
from storage.trials import this_worker
from study.config.study_config import checked
from study.samplers.legacy_fitness import FIGURES, fitness_of
from study.search.lineage import verify_lineage
from study.search.progress import Holding, Progress
from study.setup.make_objective import DEVICE_WAIT_S, fitness, serving_objective
from tests.serving_bench import GIB, FakeBench
from tests.stores import kept, read
from tests.study.setup.test_predictions import Node

optuna.logging.set_verbosity(optuna.logging.WARNING)

CONFIG = checked(
    {
        "name": "box",
        "vllm": {"model": "some/model"},
        "search_space": {"vllm_memory_util": [0.15, 0.75], "whisper_model_size": ["tiny"]},
        "baseline": {"vllm_memory_util": 0.15, "whisper_model_size": "tiny"},
    },
    source=None,
)
FITS = {"vllm_memory_util": 0.15, "whisper_model_size": "tiny"}
OUT_OF_BOUNDS = {"vllm_memory_util": 0.75, "whisper_model_size": "tiny"}


class Watcher(Progress):
    """Writes down what it is told, and how the trial stands in the study meanwhile."""

    def __init__(self, study):
        self.study, self.heard, self.attrs, self.holdings = study, [], {}, {}
        self.objective = None

    def on_trial_start(self, number, params):
        self.heard.append((number, dict(params)))

    def on_phase(self, text):
        self.heard.append(text)
        self.attrs[text] = self.study.trials[-1].user_attrs
        self.holdings[text] = self.objective.holding()


def scene(folder):
    """An objective over fake servers, with the study whose trials it judges."""
    storage = InMemoryStorage()
    study = optuna.create_study(
        study_name="box", storage=storage, directions=["minimize", "minimize", "maximize"]
    )
    node = Node()
    knobs = {
        "FAKE_VLLM_DEVICE_TOTAL_BYTES": str(node.total_bytes),
        "FAKE_VLLM_DEVICE_FREE_BYTES": str(node.free),
    }
    bench = FakeBench(folder / "bench", knobs=knobs, changes={"device": node}).bench
    watcher = Watcher(study)
    store = open_artifacts(str(folder / "artifacts"))
    objective = watcher.objective = serving_objective(CONFIG, bench, store, watcher)
    return SimpleNamespace(
        study=study, storage=storage, store=store, objective=objective, watcher=watcher
    )


def judge(scene, params):
    scene.study.enqueue_trial(params)
    scene.study.optimize(scene.objective, n_trials=1)
    return scene.study.trials[-1]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One trial that was launched and measured, and one that arithmetic refused."""
    made = scene(tmp_path_factory.mktemp("measured"))
    made.trial = judge(made, FITS)
    made.launched = dict(made.watcher.attrs)
    made.refused = judge(made, OUT_OF_BOUNDS)
    assert made.trial.state == TrialState.COMPLETE
    assert made.refused.state == TrialState.PRUNED
    return made


class TestWhatStandsOnATrial:
    def test_who_runs_it_and_where_it_comes_from_stand_there_before_anything_happens(
        self, measured
    ):
        attrs = measured.launched["predict"]
        assert attrs["worker"] == this_worker()
        assert attrs["lineage"]["id"] == "box/0"
        assert attrs["lineage"]["sealed"] is None
        assert "phases_s" not in attrs

    @pytest.mark.parametrize("name", ["trial", "refused"])
    def test_in_the_end_everything_is_sealed(self, measured, name):
        trial = getattr(measured, name)
        told = set(trial.user_attrs) - {"lineage", "doubts"}
        assert set(trial.user_attrs["lineage"]["sealed"]) == told
        assert {"worker", "phases_s", "point", "timeline"} <= told
        assert verify_lineage(measured.study) == []

    def test_a_value_that_is_changed_afterwards_is_noticed(self, measured):
        forged = optuna.create_study(directions=measured.study.directions)
        trial = measured.study.trials[0]
        forged.add_trial(trial)
        assert verify_lineage(forged) == []
        trial.values = [trial.values[0] / 2, *trial.values[1:]]
        forged.add_trial(trial)
        assert verify_lineage(forged) == ["trial 1: its record or a parent's was changed"]

    def test_its_parent_is_found_among_the_studys_trials(self, measured):
        lineage = measured.refused.user_attrs["lineage"]
        assert (lineage["parents"], lineage["generation"]) == (["box/0"], 1)
        assert lineage["mutations"] == {"vllm_memory_util": [0.15, 0.75]}

    def test_a_measured_one_has_the_first_users_number(self, measured):
        attrs = measured.trial.user_attrs
        figures = {name: attrs[name] for name in FIGURES}
        assert attrs["fitness"] == fitness(figures) == fitness_of(measured.trial)
        assert "fitness" not in measured.refused.user_attrs


class TestFiles:
    def test_logs_samples_and_the_picture_of_a_launched_trial_are_kept(self, measured):
        files = set(kept(measured.storage, measured.trial))
        assert files >= {"vllm.log", "whisper.log", "samples.jsonl", "timeline.png"}
        picture = read(measured.store, measured.storage, measured.trial, "timeline.png")
        assert picture.startswith(b"\x89PNG")

    def test_of_a_trial_that_was_not_launched_there_are_none(self, measured):
        assert kept(measured.storage, measured.refused) == {}


class TestWhoWatches:
    def test_hears_of_the_trial_first_and_then_of_every_phase(self, measured):
        heard = measured.watcher.heard
        assert heard[0] == (0, FITS)
        assert heard.index("predict") < heard.index("start vllm") < heard.index("measure")
        assert heard[heard.index((1, OUT_OF_BOUNDS)) :] == [(1, OUT_OF_BOUNDS), "predict"]

    def test_sees_who_holds_the_device_while_servers_run_and_only_then(self, measured):
        holdings = measured.watcher.holdings
        assert isinstance(holdings["measure"], Holding)
        assert holdings["measure"].total_bytes == 64 * GIB
        assert set(holdings["measure"].by_tenant) <= {"vllm", "whisper", "other"}
        assert holdings["predict"] is None
        assert holdings["stop"] is None
        assert measured.objective.holding() is None

    def test_sees_nothing_before_the_first_trial(self, tmp_path):
        assert scene(tmp_path).objective.holding() is None

    def test_sees_tenants_by_name(self, tmp_path):
        objective = scene(tmp_path).objective
        stages = objective.stages = TrialStages(
            bench=objective.bench,
            params=FITS,
            folder=tmp_path,
            watch=Stopwatch(),
            calibration=Calibration(),
        )
        groups = {"vllm": lambda: (os.getpid(),), "whisper": tuple}
        with Telemetry(objective.bench.device, groups) as stages.telemetry:
            seen = objective.holding()
        assert seen.by_tenant.keys() == {"vllm", "other"}, "who holds nothing is not named"
        assert seen.by_tenant["vllm"] > 0
        assert (seen.total_bytes, seen.free_bytes) == (64 * GIB, 60 * GIB)


def test_a_trial_waits_for_a_device_that_another_study_holds(measured):
    assert measured.objective.wait_s == DEVICE_WAIT_S > 0


@pytest.mark.parametrize(
    ("figures", "number"),
    [
        ({}, 0.0),
        ({"stt_latency_ms": 400}, 0.25 * 0.2),
        ({"llm_latency_ms": 400}, 0.25 * 0.6),
        ({"concurrent_capacity": 5}, 0.20 * 0.25),
        ({"oom_events": 0}, 0.20),
        ({"gpu_utilization": 95}, 0.10 * 0.5),
        ({"stt_latency_ms": 0, "oom_events": 1}, 0.0),
        ({"stt_latency_ms": 0, "wer": 3.4, "free_memory_mb": 1000}, 0.25),
    ],
)
def test_what_was_not_measured_counts_nothing_in_the_first_users_number(figures, number):
    assert fitness(figures) == pytest.approx(number)
