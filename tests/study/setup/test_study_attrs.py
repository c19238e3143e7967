"""What stands on a study: all that its readers look for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial

from objectives.trial.bench import Bench
from study.config.schema import Document
from study.config.study_config import StudyConfig, checked
from study.results.findings import findings_to_dict, read_study
from study.results.trial_rows import conditions
from study.setup.study_attrs import replay_attrs, study_attrs
from tests.serving_bench import GIB, FakeBench
from tests.study.setup.test_predictions import Node

optuna.logging.set_verbosity(optuna.logging.WARNING)

TABLE = Path("recorded/january.csv")
BASELINE = {"vllm_memory_util": 0.50, "whisper_model_size": "small", "beam": 5}
CONTENT = {
    "name": "box",
    "device": "cpu",
    "seed": 7,
    "vllm": {"model": "some/model"},
    "search_space": {
        "vllm_memory_util": [0.45, 0.50],
        "whisper_model_size": ["tiny", "small"],
        "beam": {"bind": "whisper.args.beam-size", "low": 1, "high": 5, "step": 2},
    },
    "baseline": BASELINE,
    "objectives": {
        "gpu_utilization": {"direction": "neutral", "target": 70},
        "concurrent_capacity": "maximize",
    },
    "slo": {"llm_latency_ms": {"max": 900, "hard": True}},
    "load": {"measure_s": 30, "quantile": "p50"},
}


def config(**changes) -> StudyConfig:
    return checked({**CONTENT, **changes}, source=Path("box.yaml"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("attrs") / "bench"
    return FakeBench(folder, changes={"device": Node()}).bench


def findings(conf: StudyConfig, attrs):
    """As a reader of a study sees it that has this on it, and a trial at the baseline."""
    study = optuna.create_study(directions=list(conf.directions.values()))
    for key, value in attrs.items():
        study.set_user_attr(key, value)
    distributions = conf.space.distributions()
    study.add_trial(create_trial(values=[5, 3], params=BASELINE, distributions=distributions))
    return read_study(study, "sqlite:///studies/box.db")


class TestAStudyOnServers:
    def test_is_read_back_with_its_device_objectives_and_baseline(self, bench):
        found = findings(config(), study_attrs(config(), bench))
        assert found.device == {
            "kind": "cpu",
            "name": "Some CPU, memory node 0",
            "uuid": "cpu-node0",
            "total_bytes": 64 * GIB,
        }
        assert findings_to_dict(found)["device"] == found.device
        assert found.directions == {
            "gpu_utilization": "minimize",
            "concurrent_capacity": "maximize",
        }
        assert found.target("gpu_utilization") == 70
        assert found.target("concurrent_capacity") is None
        assert found[0].distances == {"gpu_utilization"}
        assert found.baseline == 0
        assert found.parameters == ("vllm_memory_util", "whisper_model_size", "beam")

    @pytest.mark.parametrize("weights", ["real", "dummy"])
    def test_says_what_its_weights_were(self, tmp_path, weights):
        changes = {"device": Node(), "llm_is_dummy": weights == "dummy"}
        bench = FakeBench(tmp_path / "bench", changes=changes).bench
        found = findings(config(), study_attrs(config(), bench))
        assert found.weights == weights
        assert (found.caveat is None) is (weights == "real")

    def test_has_the_conditions_that_every_report_names(self, bench):
        told = conditions(findings(config(), study_attrs(config(), bench)))
        known = conditions(findings(config(), {}))
        assert {"device", "load", "engines"} <= {*told}
        assert all(told[fact] != known.get(fact) for fact in ("device", "load", "engines"))
        assert bench.device.name in told["device"]

    def test_names_the_engine_of_either_server(self, bench):
        whisper = bench.servers["whisper"]
        named = replace(whisper, engine=replace(whisper.engine, name="its own"))
        own = replace(bench, servers={**bench.servers, "whisper": named})
        engines = study_attrs(config(), own)["engines"]
        assert engines["vllm"] == bench.servers["vllm"].engine.to_dict()
        assert engines["whisper"] == {
            **whisper.engine.to_dict(),
            "name": "its own",
        }

    def test_has_the_loads_numbers_and_the_digest_of_all_its_requests(self, bench):
        load = study_attrs(config(), bench)["load"]
        assert load.pop("trace_sha256") == bench.trace.sha256
        assert load == bench.profile.to_dict()

    def test_tells_the_devices_facts_besides(self, bench):
        assert study_attrs(config(), bench)["device_facts"] == {"settled": True, "cpus": 8}


class TestAStudyOfATable:
    def test_is_labelled_wherever_it_is_read(self):
        found = findings(config(), replay_attrs(config(), TABLE))
        assert found.weights == "replay"
        assert found.attrs["weights"] == "replay"
        assert "january.csv" in found.caveat
        assert findings_to_dict(found)["replay"] == "january.csv"

    def test_names_nothing_that_was_not_there(self):
        attrs = replay_attrs(config(), TABLE)
        assert not attrs.keys() & {"device", "device_facts", "load", "engines"}
        assert findings_to_dict(findings(config(), attrs))["device"]["name"] is None

    def test_is_read_back_with_its_objectives_and_baseline(self):
        found = findings(config(), replay_attrs(config(), TABLE))
        assert found.target("gpu_utilization") == 70
        assert found.baseline == 0
        assert found.parameters == ("vllm_memory_util", "whisper_model_size", "beam")


@pytest.fixture(params=["servers", "table"])
def attrs(request, bench):
    """Makes what stands on either kind of study."""
    if request.param == "table":
        return lambda conf: replay_attrs(conf, TABLE)
    return lambda conf: study_attrs(conf, bench)


class TestBothKinds:
    def test_can_be_stored_as_json_and_come_back_the_same(self, attrs):
        told = attrs(config())
        assert json.loads(json.dumps(told, allow_nan=False)) == told

    def test_hold_the_whole_configuration(self, attrs):
        told = attrs(config())
        assert Document.model_validate(told["config"]) == config().document
        assert (told["schema"], told["seed"]) == (1, 7)
        assert told["baseline"] == BASELINE

    def test_name_every_constraint_in_order(self, attrs):
        told = attrs(config())
        assert told["constraints"] == list(config().constraint_names)
        assert told["constraints"][-1] == "slo_llm_latency_ms"

    def test_say_what_is_wanted(self, attrs):
        assert attrs(config())["objectives"] == {
            "gpu_utilization": {"direction": "minimize", "target": 70},
            "concurrent_capacity": {"direction": "maximize", "target": None},
        }

    def test_describe_every_parameter(self, attrs):
        space = {
            "size": {"bind": "whisper.model", "choices": ["tiny", "small"]},
            "beam": {"bind": "whisper.args.beam_size", "low": 1, "high": 5, "step": 2},
            "util": {"bind": "vllm.args.gpu-memory-utilization", "low": 0.3, "high": 0.7},
        }
        assert attrs(config(search_space=space, baseline=None))["space"] == {
            "size": {
                "binding": "whisper.model",
                "choices": ["tiny", "small"],
                "low": None,
                "high": None,
            },
            "beam": {
                "binding": "whisper.args.beam-size",
                "choices": [1, 3, 5],
                "low": 1,
                "high": 5,
            },
            "util": {
                "binding": "vllm.args.gpu-memory-utilization",
                "choices": [],
                "low": 0.3,
                "high": 0.7,
            },
        }

    def test_name_what_runs_today_where_nobody_said_it(self, attrs):
        known = {"vllm_memory_util": 0.50, "whisper_model_size": "small"}
        assert attrs(config(baseline=None))["baseline"] == {**known, "beam": 1}

    def test_without_a_baseline_say_so(self, attrs):
        space = {"size": {"bind": "whisper.model", "choices": ["tiny", "small"]}}
        assert attrs(config(search_space=space, baseline=None))["baseline"] is None
