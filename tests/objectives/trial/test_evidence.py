"""What the stages of a trial return, and what of it stays on the trial."""

import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from objectives.device.allocation import LargestAllocation
from objectives.errors import InfeasibleError, OutOfBoundsError
from objectives.evidence import Invocation, MemoryEvidence, PredictedMemory, TrialEvidence
from objectives.kinds.forecast import Forecast
from objectives.measurement import summarise
from objectives.memory.calibration import Calibration
from objectives.memory.estimate import given
from objectives.servers.server import Launch
from objectives.space import Binding, Parameter, SearchSpace
from objectives.telemetry.record import DeviceSample, MemoryPoint, TelemetryRecord
from objectives.trial.evidence import Conclusion, Seen, Started, Watched, shown
from objectives.trial.prediction import CandidatePrediction
from objectives.trial.stages import TrialStages
from objectives.trial.stopwatch import Stopwatch
from objectives.vllm.startup_log import StartupFacts
from tests import kinds
from tests.objectives.kinds.test_forecast import CARD, GIB, at
from tests.objectives.kinds.test_kind import launched
from tests.objectives.kinds.test_vllm_kind import MEMORY, settings
from tests.objectives.trial.test_bench import bench_with
from tests.objectives.trial.test_conclusion import LLM, STT, driven, unanswered, window

KEY = "k3y-of-this-trial"
FORECAST = MEMORY.forecast(
    settings("cuda", gpu_memory_utilization=0.6, max_model_len=2048, max_num_seqs=16),
    at(),
)
WHISPER = Forecast(held=given(GIB, "its file"), doubts=("Whisper's size is a guess",))
PREDICTION = CandidatePrediction(forecasts={"whisper": WHISPER, "vllm": FORECAST})
FACTS = StartupFacts(kv_cache_tokens=336, available_kv_bytes=GIB)
STARTED = Started(
    launches={
        "whisper": Launch(name="whisper", argv=("w",), env={"A": "1"}, log=Path("whisper.log")),
        "vllm": Launch(
            name="vllm",
            argv=("v", "--max-num-seqs", "16"),
            env={"A": "2", "VLLM_API_KEY": "k3y"},
            log=Path("vllm.log"),
        ),
    },
    logs=(Path("whisper.log"), Path("vllm.log")),
    health={"whisper": {"compute_device": "cuda:0"}},
    facts={"vllm": FACTS},
    doubts=("the driver does not list vllm",),
)


def looks(*used_gib, begin_s=0.0):
    """A look a second; Whisper has what is told, vLLM nothing that anybody could tell."""
    samples = tuple(
        DeviceSample(
            time_s=begin_s + second,
            total_bytes=12 * GIB,
            free_bytes=(12 - used) * GIB,
            by_tenant={"whisper": used * GIB, "vllm": None},
        )
        for second, used in enumerate(used_gib)
    )
    return TelemetryRecord(kind="cuda", interval_s=0.25, samples=samples)


WATCHED = Watched(window=looks(3, 4, begin_s=2.0), whole=looks(1, 2, 3, 4, 6), began_s=1.23456)
MEASUREMENT = summarise(
    driven(*LLM, *window("stt", [0.25] * 20)), device_doubts=("the device was hot",)
)
CONCLUSION = Conclusion(
    measurement=MEASUREMENT,
    figures={"llm_latency_ms": 750.0, "free_memory_mb": 1024.0},
    values={"llm_latency_ms": 750.0},
    excess={"failed_share": -0.05},
)

WHOLE = Seen(
    before=CARD,
    prediction=PREDICTION,
    started=STARTED,
    driven=driven(*LLM),
    watched=WATCHED,
    conclusion=CONCLUSION,
    calibration=Calibration(),
    excess={"bounds": -1},
)
"""Of a trial that went through all of its stages."""


def kept(seen, *, quantile="p95", inherited=None):
    return seen.to_evidence(quantile=quantile, inherited=inherited or {})


class TestNothingYet:
    def test_before_a_trial_nothing_was_seen(self):
        seen = Seen()
        several = {"started": Started(), "excess": {}, "doubts": ()}
        assert {name: getattr(seen, name) for name in several} == several
        single = {one.name for one in fields(Seen)} - set(several)
        assert {name for name in single if getattr(seen, name) is not None} == set()
        assert seen.all_excess == {}
        assert seen.all_doubts == ()

    def test_before_a_start_nobody_was_started(self):
        assert Started() == Started(launches={}, logs=(), health={}, facts={}, doubts=())

    @pytest.mark.parametrize("kind", [Seen, Started])
    def test_what_one_trial_collects_is_not_on_the_next(self, kind):
        collections = [
            one.name for one in fields(kind) if isinstance(getattr(kind(), one.name), dict)
        ]
        assert collections
        for name in collections:
            assert getattr(kind(), name) is not getattr(kind(), name)

    def test_a_conclusion_has_no_values_until_somebody_says_so(self):
        found = Conclusion(measurement=MEASUREMENT, figures={})
        assert (found.values, found.excess, found.failure) == ({}, {}, None)


def test_a_trial_that_ends_early_leaves_what_was_seen_until_then(tmp_path):
    space = SearchSpace(
        (
            Parameter(
                name="seqs",
                binding=Binding.parse("vllm.args.max-num-seqs"),
                choices=(8, 64),
                bounds=(1, 48),
            ),
        )
    )
    stages = TrialStages(
        bench=bench_with(space=space),
        params={"seqs": 64},
        folder=tmp_path,
        watch=Stopwatch(),
        calibration=Calibration(),
    )
    with pytest.raises(OutOfBoundsError):
        stages.run()
    assert stages.seen == Seen(excess={"bounds": 16})
    assert stages.seen.all_excess == {"bounds": 16}
    assert kept(stages.seen) == TrialEvidence()


class TestAllExcess:
    def test_is_of_the_prediction_where_nothing_else_is_known(self):
        excess = Seen(prediction=PREDICTION).all_excess
        assert excess == PREDICTION.excess
        assert set(excess) == {"start_memory_gib", "kv_cache_gib", "device_memory_gib"}

    def test_is_of_the_conclusion_and_of_the_stages_beside_it(self):
        seen = Seen(
            prediction=PREDICTION, conclusion=CONCLUSION, excess={"bounds": -1, "time_budget_s": 3}
        )
        own = {"failed_share": -0.05, "bounds": -1, "time_budget_s": 3}
        assert seen.all_excess == {**PREDICTION.excess, **own}

    def test_what_comes_later_in_a_trial_knows_better(self):
        concluded = replace(CONCLUSION, excess={"kv_cache_gib": 7, "failed_share": 8})
        seen = Seen(prediction=PREDICTION, conclusion=concluded)
        assert seen.all_excess["kv_cache_gib"] == 7
        assert seen.all_excess["failed_share"] == 8
        told = replace(seen, excess={"kv_cache_gib": 9, "failed_share": 10})
        assert told.all_excess["kv_cache_gib"] == 9
        assert told.all_excess["failed_share"] == 10

    def test_is_nobody_elses_to_change(self):
        seen = Seen(excess={"bounds": 1})
        seen.all_excess["bounds"] = 2
        assert seen.all_excess == {"bounds": 1}


class TestAllDoubts:
    def test_come_in_the_order_of_the_stages(self):
        seen = Seen(
            prediction=PREDICTION, started=STARTED, doubts=("it moved",), conclusion=CONCLUSION
        )
        assert seen.all_doubts == (
            "Whisper's size is a guess",
            "the driver does not list vllm",
            "it moved",
            "speech-to-text: p95 rests on 20 samples; an interval of it takes 72",
            "the device was hot",
        )

    def test_are_those_of_the_stages_that_were_reached(self):
        assert Seen(prediction=PREDICTION).all_doubts == ("Whisper's size is a guess",)
        assert Seen(doubts=("it moved",)).all_doubts == ("it moved",)


class TestWhatIsKept:
    def test_of_nothing_is_nothing(self):
        assert kept(Seen()) == TrialEvidence()

    def test_of_a_start_that_failed_is_how_it_was_tried(self):
        first = replace(STARTED, launches={"whisper": STARTED.launches["whisper"]}, facts={})
        whole = looks(1, 2)
        evidence = kept(
            Seen(
                before=CARD,
                prediction=PREDICTION,
                started=first,
                watched=Watched(window=whole, whole=whole, began_s=0.5),
                doubts=("it moved",),
            )
        )
        assert evidence.settings == {"whisper": Invocation(argv=("w",), env={"A": "1"})}
        assert evidence.health == {"whisper": {"compute_device": "cuda:0"}}
        assert evidence.device_state == CARD
        assert {name: memory.logged for name, memory in evidence.footprint.items()} == {
            "whisper": None,
            "vllm": None,
        }
        assert [sample.used_bytes for sample in evidence.telemetry.samples] == [GIB, 2 * GIB]
        assert evidence.telemetry.looks == 2
        assert evidence.tenants_bytes == {"whisper": 2 * GIB, "vllm": None, "other": None}
        assert evidence.doubts == (
            "Whisper's size is a guess",
            "the driver does not list vllm",
            "it moved",
        )
        for what_was_not_reached in ("measurement", "infeasible", "error"):
            assert getattr(evidence, what_was_not_reached) is None
        assert evidence.figures == evidence.intervals == {}

    def test_of_a_launch_is_what_makes_a_difference_and_no_key(self):
        assert kept(WHOLE, inherited={"A": "1"}).settings == {
            "whisper": Invocation(argv=("w",), env={}),
            "vllm": Invocation(argv=("v", "--max-num-seqs", "16"), env={"A": "2"}),
        }

    def test_of_memory_is_every_servers_forecast_beside_what_its_log_says(self):
        footprint = kept(WHOLE).footprint
        assert list(footprint) == ["whisper", "vllm"]
        assert footprint["whisper"] == MemoryEvidence(
            predicted=PredictedMemory(held_bytes=GIB, held_source="given")
        )
        assert footprint["vllm"] == MemoryEvidence(predicted=FORECAST.stored(), logged=FACTS)
        assert footprint["vllm"].predicted.kv_cache_bytes > 0

    def test_what_a_log_says_of_a_server_without_a_forecast_has_no_place(self):
        assert kept(replace(WHOLE, prediction=None)).footprint == {}

    def test_of_the_device_are_the_figures_of_the_window(self):
        telemetry = kept(WHOLE).telemetry
        assert telemetry.looks == 2
        assert telemetry.duration_s == 1.0
        assert telemetry.peak_used_bytes == 4 * GIB
        assert telemetry.min_free_bytes == 8 * GIB
        assert kept(WHOLE).tenants_bytes == {"whisper": 4 * GIB, "vllm": None, "other": None}
        assert telemetry.tenants_bytes == kept(WHOLE).tenants_bytes

    def test_of_the_device_are_the_samples_from_the_first_start_on(self):
        telemetry = kept(WHOLE).telemetry
        assert telemetry.samples == tuple(
            MemoryPoint(
                time_s=float(second),
                used_bytes=used * GIB,
                tenants={"whisper": used * GIB, "vllm": None},
            )
            for second, used in enumerate((1, 2, 3, 4, 6))
        )
        assert telemetry.began_s == 1.235

    def test_of_the_requests_are_measurement_figures_and_intervals(self):
        evidence = kept(WHOLE)
        assert evidence.measurement == replace(MEASUREMENT, doubts=())
        assert evidence.figures == CONCLUSION.figures
        assert evidence.intervals == {"llm_latency_ms": pytest.approx((750, 750))}

    def test_of_the_largest_allocation_is_all_and_its_size_is_a_figure_also_without_a_load(self):
        found = LargestAllocation(granted_bytes=3 << 29, asked_bytes=2 * GIB, before="vllm")
        early = kept(Seen(largest_allocation=found))
        assert early.largest_allocation == found
        assert early.figures == {"largest_allocation_mb": 1536.0}
        whole = kept(replace(WHOLE, largest_allocation=found))
        assert whole.figures == {"largest_allocation_mb": 1536.0, **CONCLUSION.figures}

    def test_of_an_allocation_that_was_not_asked_for_is_the_reason_and_no_figure(self):
        found = LargestAllocation(why_not="not told on a CPU", before="vllm")
        evidence = kept(Seen(largest_allocation=found))
        assert evidence.largest_allocation == found
        assert evidence.figures == {}

    def test_of_doubts_is_each_kept_once(self):
        assert MEASUREMENT.doubts
        evidence = kept(WHOLE)
        assert evidence.doubts == WHOLE.all_doubts
        assert evidence.measurement.doubts == ()

    def test_intervals_are_of_the_quantile_that_is_an_objective(self):
        intervals = kept(WHOLE, quantile="p50").intervals
        assert set(intervals) == {"llm_latency_ms", "stt_latency_ms"}
        assert intervals["stt_latency_ms"] == pytest.approx((250, 250))

    def test_of_a_conclusion_that_failed_are_the_measurement_and_what_figures_it_has(self):
        samples = (*window("llm", [0.75] * 6), unanswered("llm", "HTTP 500"), *STT)
        failed = Conclusion(
            measurement=summarise(driven(*samples)),
            figures={},
            excess={"failed_share": 0.1},
            failure=InfeasibleError("requests_failed", "1 of 7"),
        )
        evidence = kept(replace(WHOLE, conclusion=failed))
        assert evidence.measurement.llm.failed == 1
        assert evidence.figures == {}
        assert evidence.infeasible is None, "why it ended is written where it is caught"

    def test_what_it_cost_and_why_it_ended_is_written_by_others(self):
        evidence = kept(WHOLE)
        nothing = TrialEvidence()
        for name in ("point", "weights", "infeasible", "error", "fitness", "timeline", "phases_s"):
            assert getattr(evidence, name) == getattr(nothing, name)


@pytest.mark.parametrize("kind", [Started, Watched, Conclusion, Seen])
def test_everything_that_can_be_seen_is_explained(kind):
    explained = re.findall(r"^ +(\w+): ", kind.__doc__.partition("Attributes:")[2], re.M)
    assert explained == [one.name for one in fields(kind)]


@pytest.mark.parametrize(
    "kind", [replace(kinds.VLLM, is_local=False), kinds.WHISPER], ids=lambda kind: kind.name
)
def test_no_key_no_token_and_no_proxy_is_stored(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    private = ("HF_TOKEN", *proxies, *map(str.upper, proxies))
    for name in private:
        monkeypatch.setenv(name, "s3cret")
    started = launched(kind, tmp_path, key=KEY)
    assert {started.env[name] for name in private} == {"s3cret"}
    stored = str(asdict(shown(started, inherited={})))
    assert "DO_NOT_TRACK" in stored
    assert "s3cret" not in stored
    assert KEY not in stored


def test_what_is_stored_is_the_command_line_and_what_makes_a_difference(tmp_path):
    launch = Launch(
        name="vllm",
        argv=("python", "-m", "server"),
        env={
            "PATH": "/engines/big/bin",
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "VLLM_CACHE_ROOT": "/caches/vllm",
            "TRITON_CACHE_DIR": "/caches/triton",
            "LANG": "C.UTF-8",
            "CUDA_VISIBLE_DEVICES": "GPU-1",
            "OMP_NUM_THREADS": "4",
            "VLLM_API_KEY": KEY,
        },
        log=tmp_path / "vllm.log",
    )
    assert shown(launch, {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "8"}) == Invocation(
        argv=("python", "-m", "server"),
        env={"CUDA_VISIBLE_DEVICES": "GPU-1", "OMP_NUM_THREADS": "4"},
    )


def test_which_device_it_was_is_stored_although_the_studys_shell_says_the_same(tmp_path):
    which = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    launch = Launch(name="vllm", argv=("python",), env=which, log=tmp_path / "vllm.log")
    assert shown(launch, which).env == which
