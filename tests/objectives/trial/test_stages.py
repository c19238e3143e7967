"""The stages of one trial, and why it ended in one of them.

Servers answer from inside this process and the device is a table of numbers, so every stage can
be made to go wrong alone; the last test runs all of them on servers that are processes.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import psutil
import pynvml
import pytest

from objectives.candidate import ServerSettings
from objectives.device.allocation import LargestAllocation
from objectives.device.cuda import all_devices
from objectives.device.state import Device
from objectives.errors import (
    BenchError,
    DoesNotFitError,
    InfeasibleError,
    OrphanError,
    OutOfBoundsError,
    OutOfMemoryError,
    OverBudgetError,
    ProfilingRaceError,
    ServerDiedError,
)
from objectives.kinds.vllm_kind import VllmKind
from objectives.load.exchange import Target
from objectives.load.profile import LlmLoad, LoadProfile, SttLoad, plan
from objectives.memory.calibration import Calibration
from objectives.servers.neighbours import Running
from objectives.space import Binding, Parameter, SearchSpace
from objectives.telemetry import ownership
from objectives.trial import stages as module
from objectives.trial.evidence import Conclusion, Started
from objectives.trial.stages import MEMORY_SLACK_BYTES, TrialStages
from objectives.trial.stopwatch import Stopwatch
from objectives.trial.tenants import Tenants
from objectives.units import GIB, MIB
from objectives.vllm.startup_log import StartupFacts
from tests.fakes.fake_nvml import FakeGpu, FakeNvml
from tests.kinds import WHISPER
from tests.objectives.diagnosis.failing_logs import OOM, READY, engine_died, lines
from tests.objectives.load.test_client import Servers
from tests.objectives.trial.test_bench import bench_with
from tests.objectives.trial.test_prediction import CARD, QWEN
from tests.objectives.workers.fake_driver import GPU, FakeDevice
from tests.serving_bench import FakeBench

PHASES = ("warmup", "measure")
MINE, ANOTHER = os.getpid(), os.getppid()
USED = CARD.total_bytes - CARD.free_bytes
SPACE = SearchSpace(
    (
        Parameter(
            name="utilisation",
            binding=Binding.parse("vllm.args.gpu-memory-utilization"),
            choices=(0.40, 0.45, 0.48, 0.50, 0.75),
            bounds=(0.30, 0.70),
        ),
    )
)
LLM = LlmLoad(rate_rps=20, prompt_tokens=4, output_tokens=2, vocab_size=500)
LOAD = LoadProfile(
    seed=1,
    llm=LLM,
    stt=SttLoad(rate_rps=20, clip_s=(0.1,)),
    warmup_s=0.05,
    measure_s=0.1,
    drain_s=30.0,
    timeout_s=30.0,
)
STARTED = StartupFacts(
    available_kv_bytes=int(0.3726 * GIB), kv_cache_tokens=6976, device_kind="cuda"
)
DISTURBED = replace(STARTED, available_kv_bytes=int(0.1 * GIB))


class Enough(BenchError):
    """The trial went as far as the test needs."""


def enough():
    raise Enough("enough")


def nothing():
    """All is well."""


def gone_one():
    raise ServerDiedError("vllm", log=None, returncode=1)


class Card(Device):
    """A device whose numbers the test writes."""

    name, uuid, index = "card", "GPU-1", 0

    def __init__(self, kind="cuda"):
        self.kind = kind
        self.state = CARD
        self.is_lost = False

    @property
    def total_bytes(self):
        return self.state.total_bytes

    def read(self):
        if self.is_lost:
            raise BenchError("the card is lost")
        return self.state

    def take(self, size_bytes):
        free = self.state.free_bytes - size_bytes
        used = self.state.used_bytes + size_bytes
        self.state = replace(self.state, free_bytes=free, used_bytes=used)

    def list_processes(self, by_pid):
        self.state = replace(self.state, by_pid=by_pid)

    def describe(self):
        return {}

    def environment(self):
        return {}


@dataclass(kw_only=True)
class Standing:
    """Stands where `Tenants` stands: what it is told to be, and nobody behind it.

    Attributes:
        answers: What its servers answer under load; without it a trial ends before the load.
        facts: What vLLM's log says, start by start.
        restarts: Who may be started again.
        on_start: Called when all would be up.
        on_end: Called when all are gone.
        still_there: Raises for who is not.
        pids: Tenant to its processes.
        done: What it was asked to do, in order.
        given: What it was made of.
    """

    answers: Servers | None = None
    facts: list[StartupFacts] = field(default_factory=list)
    restarts: tuple[str, ...] = ("vllm",)
    on_start: Callable[[], None] = nothing
    on_end: Callable[[], None] = nothing
    still_there: Callable[[], None] = nothing
    pids: dict = field(default_factory=lambda: {"vllm": [], "whisper": []})
    done: list[str] = field(default_factory=list)
    given: dict = field(default_factory=dict)
    seen: Started = field(default_factory=Started)

    def __call__(self, **given):
        self.given = given
        return self

    def started(self):
        return self.seen

    def groups(self):
        return {name: pids.copy for name, pids in self.pids.items()}

    def start(self, stack):
        stack.callback(self.on_end)
        stack.callback(self.done.append, "gone")
        self._up("up")
        self.on_start()

    def may_restart(self, name):
        return name in self.restarts

    def restart(self, stack, name):
        self._up(f"{name} up again")
        return self.seen.facts.get(name)

    def _up(self, what):
        self.done.append(what)
        self.seen = Started(facts={"vllm": self.facts.pop(0)} if self.facts else {})

    def check(self):
        self.still_there()

    def cause_of_end(self, error, *, serving):
        return Tenants(**self.given).cause_of_end(error, serving=serving)

    def target(self, role):
        self.done.append(f"load {role}")
        if self.answers is None:
            enough()
        return Target(url=self.answers.url, model=role)


def card_bench(card=None, *, load=LOAD, **changes):
    """A bench of `QWEN` on a card, on which vLLM's memory is not predicted unless it is asked."""
    args = {"max-model-len": 2048, "max-num-seqs": 16}
    usual = {
        "space": SPACE,
        "device": card or Card(),
        "vllm_version": "0.11.0",
        "vllm": ServerSettings(model="qwen", device="cuda", args=args),
        "whisper": ServerSettings(model="small", device="cuda", args={"dtype": "float16"}),
        "llm_weights_bytes": int(5.2 * GIB),
        "headroom_bytes": 0,
        "profile": load,
        "trace": plan(load),
        "quantile": "p50",
    }
    return bench_with(**{**usual, **changes})


def staged(folder, patch, bench, standing, *, at=None, clock=time.monotonic, **more):
    """A trial of `bench`; `at` has what happens when a phase begins."""
    patch.setattr(module, "Tenants", standing)
    folder.mkdir(exist_ok=True)
    told = at or {}
    return TrialStages(
        bench=bench,
        params={"utilisation": 0.50, **more.get("params", {})},
        folder=folder,
        watch=Stopwatch(on_phase=lambda name: told.get(name, nothing)(), clock=clock),
        calibration=more.get("known", Calibration()),
    )


@pytest.fixture
def trial(tmp_path, monkeypatch):
    def trial(bench, standing=None, **more):
        return staged(tmp_path / "trial", monkeypatch, bench, standing or Standing(), **more)

    return trial


@pytest.fixture
def answers():
    """Both servers, fresh: a request that an earlier trial gave up may still arrive there."""
    with Servers().running() as servers:
        yield servers


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def goes_on(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def look_again(stages):
    """Wait until the telemetry looked at the device as it is now."""
    now_s = stages.telemetry.now_s()
    while stages.telemetry.record().samples[-1].time_s <= now_s:
        time.sleep(0.005)


def until_held(stages, *names):
    """Wait until the telemetry saw what these tenants hold; who is up is asked once a second."""
    while not set(names) <= set(stages.holding()["by_tenant"]):
        time.sleep(0.005)


def phases_of(stages):
    return [span.phase for span in stages.watch.timeline()]


class TestPredict:
    def test_out_of_bounds_ends_it_before_the_device_is_read(self, trial):
        card = Card()
        card.is_lost = True
        standing = Standing()
        stages = trial(card_bench(card, shape=QWEN), standing, params={"utilisation": 0.75})
        with pytest.raises(OutOfBoundsError) as caught:
            stages.run()
        error = caught.value
        assert error.cause == "out_of_bounds"
        assert error.evidence == "utilisation is 0.75, its hard bounds are 0.3 to 0.7"
        assert error.excess == {"bounds": pytest.approx(0.05)}
        assert error.predicted
        assert error.remedy
        assert phases_of(stages) == ["predict"]
        assert standing.done == []
        assert list(stages.folder.iterdir()) == []

    def test_a_certain_refusal_has_only_the_violated_constraints(self, trial):
        standing = Standing()
        stages = trial(card_bench(shape=QWEN), standing, params={"utilisation": 0.40})
        with pytest.raises(DoesNotFitError) as caught:
            stages.run()
        error, seen = caught.value, stages.seen
        refusal = seen.prediction.refusal
        assert error.predicted
        assert error.cause == "kv_cache_no_blocks"
        assert (error.evidence, error.remedy) == (refusal.evidence, refusal.remedy)
        assert error.evidence and error.remedy
        assert set(error.excess) == {"kv_cache_gib"}
        excess = seen.all_excess
        assert set(excess) == {"bounds", *seen.prediction.excess}
        assert excess["kv_cache_gib"] == error.excess["kv_cache_gib"] > 0
        assert excess["bounds"] == pytest.approx(-0.10)
        assert excess["start_memory_gib"] < 0
        assert seen.before == CARD
        assert phases_of(stages) == ["predict"]
        assert standing.done == []

    def test_what_is_only_likely_not_to_fit_is_launched(self, trial):
        standing = Standing()
        stages = trial(card_bench(shape=QWEN), standing, params={"utilisation": 0.48})
        with pytest.raises(Enough):
            stages.run()
        assert not stages.seen.prediction.fits
        assert stages.seen.all_excess["kv_cache_gib"] > 0
        assert standing.done[0] == "up"

    def test_what_was_learned_decides_whether_it_is_launched(self, trial):
        first = trial(card_bench(shape=QWEN), Standing(facts=[STARTED]))
        with pytest.raises(Enough):
            first.run()
        low = {"utilisation": 0.45}
        with pytest.raises(Enough):
            trial(card_bench(shape=QWEN), params=low).run()
        with pytest.raises(DoesNotFitError):
            trial(card_bench(shape=QWEN), params=low, known=first.seen.calibration).run()

    def test_what_could_not_be_predicted_is_launched_and_said(self, trial):
        stages = trial(card_bench(shape_missing="no config.json here"))
        with pytest.raises(Enough):
            stages.run()
        assert stages.seen.all_doubts == ("vLLM's memory was not predicted: no config.json here",)

    def test_who_is_started_gets_the_candidate_of_the_point(self, trial):
        standing = Standing()
        stages = trial(card_bench(), standing)
        with pytest.raises(Enough):
            stages.run()
        given = standing.given
        assert given["candidate"]["vllm"].args["gpu-memory-utilization"] == 0.50
        assert given["candidate"]["whisper"].model == "small"
        assert given["bench"] is stages.bench
        assert given["folder"] == stages.folder


class TestTheTimeBudget:
    def test_a_cold_start_does_not_count(self, trial, clock, answers):
        """It compiles, downloads, fills caches: the first of a study, or of another type."""
        standing = Standing(answers=answers, on_start=lambda: clock.goes_on(3600))
        stages = trial(card_bench(trial_timeout_s=100), standing, clock=clock)
        stages.run()
        assert -100 <= stages.seen.all_excess["time_budget_s"] <= 0

    def test_it_is_graded_by_the_seconds_over_it(self, trial, clock, answers):
        standing = Standing(answers=answers, on_start=lambda: clock.goes_on(3600))
        stages = trial(
            card_bench(trial_timeout_s=100),
            standing,
            clock=clock,
            at={"stop": lambda: clock.goes_on(125)},
        )
        with pytest.raises(OverBudgetError) as caught:
            stages.run()
        assert caught.value.cause == "over_time_budget"
        assert caught.value.evidence == "125 s of 100 s were used, starts not counted"
        assert caught.value.excess == {"time_budget_s": 25}
        assert not caught.value.predicted
        assert caught.value.remedy

    def test_a_load_that_is_over_it_is_given_up(self, trial, clock, answers):
        answers.stream = "hang"
        load = replace(LOAD, stt=None, drain_s=2.0)
        stages = trial(
            card_bench(load=load, trial_timeout_s=100),
            Standing(answers=answers),
            clock=clock,
            at={"warmup": lambda: clock.goes_on(101)},
        )
        with pytest.raises(OverBudgetError) as caught:
            stages.run()
        assert caught.value.excess == {"time_budget_s": 1}
        assert stages.seen.driven is None

    def test_a_trial_that_is_over_it_in_the_end_has_figures_and_ends_all_the_same(
        self, trial, clock, answers
    ):
        stages = trial(
            card_bench(trial_timeout_s=100),
            Standing(answers=answers),
            clock=clock,
            at={"stop": lambda: clock.goes_on(103)},
        )
        with pytest.raises(OverBudgetError) as caught:
            stages.run()
        assert caught.value.excess == {"time_budget_s": 3}
        assert stages.seen.conclusion.figures["llm_latency_ms"] > 0
        assert stages.seen.all_excess["time_budget_s"] == 3


class TestLoad:
    @pytest.mark.parametrize("when", ["warmup", "measure"])
    @pytest.mark.parametrize(
        ("server", "load"),
        [("llm", replace(LOAD, stt=None)), ("stt", replace(LOAD, llm=None))],
    )
    def test_one_request_without_memory_is_a_candidate_without_memory(
        self, trial, answers, when, server, load
    ):
        def answer(status):
            answers.status = status

        at = {phase: lambda status=507 * (phase == when) or 200: answer(status) for phase in PHASES}
        stages = trial(card_bench(load=load), Standing(answers=answers), at=at)
        with pytest.raises(OutOfMemoryError) as caught:
            stages.run()
        assert caught.value.cause == "cuda_oom_serving"
        assert caught.value.evidence == f"{server}: HTTP 507: no room"
        assert not caught.value.predicted
        assert caught.value.remedy
        assert stages.seen.driven is not None
        assert stages.seen.conclusion is None

    def test_other_refusals_are_no_lack_of_memory(self, trial, answers):
        answers.status = 500
        with pytest.raises(InfeasibleError) as caught:
            trial(card_bench(), Standing(answers=answers)).run()
        assert caught.value.cause == "requests_failed"

    def test_a_server_that_dies_for_memory_ran_out_of_it(self, trial, answers, tmp_path):
        log = tmp_path / "vllm.log"
        log.write_text(lines(READY, engine_died("execute_model", error=OOM, serving=True)))

        def gone():
            raise ServerDiedError("vllm", log=log, returncode=1)

        stages = trial(card_bench(), Standing(answers=answers, still_there=gone))
        with pytest.raises(OutOfMemoryError) as caught:
            stages.run()
        assert caught.value.cause == "cuda_oom_serving"
        assert set(caught.value.excess) == {"device_memory_gib"}
        assert isinstance(caught.value.__cause__, ServerDiedError)
        assert stages.seen.driven is None

    def test_what_the_device_did_under_a_load_without_memory_is_told_of_its_window(
        self, trial, answers
    ):
        answers.status = 507
        at = dict.fromkeys((*PHASES, "drain"), lambda: look_again(stages))
        stages = trial(card_bench(), Standing(answers=answers), at=at)
        with pytest.raises(OutOfMemoryError):
            stages.run()
        watched = stages.seen.watched
        assert watched.window.samples[0].time_s > watched.whole.samples[0].time_s
        assert watched.window.samples[-1].time_s < watched.whole.samples[-1].time_s

    def test_a_server_that_dies_with_its_last_answer_is_missed(self, trial, answers):
        trace = plan(LOAD)

        def gone():
            if len(answers.seen) == len(trace.warmup) + len(trace.measure):
                raise ServerDiedError("whisper", log=None, returncode=-11)

        with pytest.raises(BenchError, match="whisper was ended by signal 11"):
            trial(card_bench(), Standing(answers=answers, still_there=gone)).run()

    def test_a_device_that_is_lost_under_load_ends_it(self, trial, answers):
        card = Card()
        answers.stream = "hang"
        stages = trial(
            card_bench(card, load=replace(LOAD, stt=None, warmup_s=0.0, drain_s=5.0)),
            Standing(answers=answers),
            at={
                "measure": lambda: setattr(card, "is_lost", True),
                "stop": lambda: setattr(card, "is_lost", False),
            },
        )
        with pytest.raises(BenchError, match="the card is lost"):
            stages.run()
        assert stages.seen.driven is None

    def test_the_driver_is_listened_to_from_before_the_first_server(self, trial, answers):
        with FakeNvml(FakeGpu()).installed() as driver:
            gpu = driver.gpus[0]

            def fault():
                gpu.events.append((pynvml.nvmlEventTypeXidCriticalError, 79))

            def gone():
                raise ServerDiedError("vllm", log=None, returncode=1)

            bench = card_bench(all_devices()[0][0])
            standing = Standing(answers=answers, on_start=fault, still_there=gone)
            with pytest.raises(BenchError) as caught:
                trial(bench, standing).run()
            assert driver.open_event_sets == 0
        assert caught.value.cause == "device_fault"

    @pytest.mark.parametrize("ends", [enough, gone_one])
    def test_a_card_that_falls_off_the_bus_is_named_whatever_ends_first(self, trial, ends):
        with FakeNvml(FakeGpu()).installed() as driver:

            def lose():
                driver.gpus[0].lost = True
                driver.refused["nvmlEventSetWait_v2"] = pynvml.NVML_ERROR_GPU_IS_LOST
                ends()

            stages = trial(card_bench(all_devices()[0][0]), Standing(on_start=lose))
            with pytest.raises(BenchError) as caught:
                stages.run()
        assert caught.value.cause == "device_fault"
        assert "GPU is lost" in str(caught.value)


@dataclass
class Calm:
    """A trial without a fault, and what could be seen from outside meanwhile."""

    stages: TrialStages
    conclusion: Conclusion
    began_s: float
    done: list[str]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The device is looked at in the warm-up, in the window and in the drain."""

    def look():
        began.append(stages.telemetry.began_s)
        look_again(stages)

    began = []
    at = dict.fromkeys((*PHASES, "drain"), look)
    with pytest.MonkeyPatch.context() as patch, Servers().running() as servers:
        standing = Standing(answers=servers)
        folder = tmp_path_factory.mktemp("trial")
        bench = card_bench(trial_timeout_s=1000)
        stages = staged(folder, patch, bench, standing, at=at)
        conclusion = stages.run()
    return Calm(stages=stages, conclusion=conclusion, began_s=began[0], done=standing.done)


class TestACalmTrial:
    def test_it_ends_in_every_figure_and_in_the_objectives_values(self, calm):
        figures, excess = calm.conclusion.figures, calm.stages.seen.all_excess
        assert {"llm_latency_ms", "stt_latency_ms", "gpu_utilization"} <= set(figures)
        assert calm.conclusion is calm.stages.seen.conclusion
        assert calm.conclusion.failure is None
        assert calm.conclusion.values == {"llm_latency_ms": figures["llm_latency_ms"]}
        assert max(excess.values()) <= 0
        assert set(excess) == {"bounds", "start_refused", "time_budget_s", "failed_share"}

    def test_its_stages_follow_each_other(self, calm):
        assert phases_of(calm.stages) == [
            "predict",
            "start",
            "warmup",
            "measure",
            "drain",
            "stop",
        ]
        assert calm.done == ["up", "load llm", "load stt", "gone"]

    def test_draining_counts_as_measuring(self, calm):
        spans = {span.phase: span.end_s - span.start_s for span in calm.stages.seen.driven.spans}
        seconds = calm.stages.watch.seconds()
        assert seconds["measure"] == pytest.approx(spans["measure"] + spans["drain"], abs=0.001)
        assert seconds["warmup"] == pytest.approx(spans["warmup"], abs=0.001)

    def test_the_loads_phases_stand_on_the_trials_own_clock(self, calm):
        line = {span.phase: span for span in calm.stages.watch.timeline()}
        assert line["start"].end_s <= line["warmup"].start_s
        assert line["drain"].end_s <= line["stop"].start_s

    def test_the_telemetry_is_that_of_the_window(self, calm):
        seen = calm.stages.seen
        window = next(span for span in seen.driven.spans if span.phase == "measure")
        inside = [calm.began_s + sample.time_s for sample in seen.watched.window.samples]
        whole = [calm.began_s + sample.time_s for sample in seen.watched.whole.samples]
        assert inside == [at for at in whole if window.start_s <= at <= window.end_s]
        assert whole[0] < inside[0]
        assert inside[-1] < whole[-1]

    def test_the_telemetrys_begin_is_on_the_trials_own_clock(self, calm):
        line = {span.phase: span for span in calm.stages.watch.timeline()}
        began_s = calm.stages.seen.watched.began_s
        assert line["predict"].end_s - 1e-4 <= began_s <= line["start"].start_s + 1e-4
        assert began_s == calm.began_s - calm.stages.watch.began_s


def test_without_a_load_the_telemetry_is_all_there_was(trial):
    stages = trial(card_bench(), Standing(on_start=enough))
    with pytest.raises(Enough):
        stages.run()
    watched = stages.seen.watched
    assert watched.window.samples == watched.whole.samples
    assert stages.seen.driven is None


class TestTheLargestAllocation:
    @pytest.fixture
    def asked(self, monkeypatch):
        """What the device was asked, and what stands in for its answer."""

        def answer(device, *, leave_bytes):
            calls.append((device, leave_bytes))
            return found[0]

        calls, found = [], [LargestAllocation(granted_bytes=3 * GIB, asked_bytes=3 * GIB)]
        monkeypatch.setattr(module, "largest_allocation", answer)
        return calls, found

    def test_is_asked_for_right_before_the_language_models_server_and_kept(self, trial, asked):
        def begin():
            standing.given["before_llm"]("vllm")
            enough()

        calls, (found,) = asked
        standing = Standing(on_start=begin)
        stages = trial(card_bench(headroom_bytes=GIB // 4), standing)
        with pytest.raises(Enough):
            stages.run()
        assert calls == [(stages.bench.device, GIB // 4)]
        assert stages.seen.largest_allocation == replace(found, before="vllm")
        assert phases_of(stages) == ["predict", "start", "largest allocation", "stop"]

    def test_what_it_held_for_a_moment_is_nobodys_peak(self, trial, monkeypatch):
        def answer(device, *, leave_bytes):
            look_again(stages)
            before = card.state
            card.take(card.state.free_bytes)
            look_again(stages)
            card.state = before
            return LargestAllocation()

        def begin():
            standing.given["before_llm"]("vllm")
            look_again(stages)
            enough()

        monkeypatch.setattr(module, "largest_allocation", answer)
        card, standing = Card(), Standing(on_start=begin)
        stages = trial(card_bench(card), standing)
        with pytest.raises(Enough):
            stages.run()
        watched = stages.seen.watched
        assert watched.whole.peak_used_bytes == watched.window.peak_used_bytes == USED
        assert len(watched.whole.samples) >= 2

    def test_a_device_that_does_not_tell_ends_no_trial(self, trial):
        card = Card()
        standing = Standing(on_start=lambda: standing.given["before_llm"]("vllm"))
        stages = trial(card_bench(card), standing)
        with pytest.raises(Enough):
            stages.run()
        found = stages.seen.largest_allocation
        assert found.granted_bytes is None
        assert found.why_not.startswith("not asked: the driver does not tell whether")

    def test_a_processs_answer_stands_on_a_trial_of_a_gpu(self, trial, tmp_path, monkeypatch):
        fake = FakeDevice(tmp_path, pieces=(4000, 6000), context=300, number=GPU)
        for name, value in fake.env.items():
            monkeypatch.setenv(name, value)
        standing = Standing(on_start=lambda: standing.given["before_llm"]("vllm"))
        with FakeNvml(FakeGpu(uuid=GPU, busy_percent=0)).installed() as driver:
            driver.gpus[0].used_bytes = driver.gpus[0].total_bytes - 10_000 * MIB
            stages = trial(card_bench(all_devices()[0][0], headroom_bytes=256 * MIB), standing)
            with pytest.raises(Enough):
                stages.run()
        kept = stages.seen.to_evidence(quantile="p50", inherited={})
        assert kept.figures["largest_allocation_mb"] == 6000.0
        assert kept.largest_allocation == LargestAllocation(
            granted_bytes=6000 * MIB,
            refused_bytes=6002 * MIB,
            asked_bytes=9444 * MIB,
            free_bytes=9700 * MIB,
            context_bytes=300 * MIB,
            before="vllm",
        )
        assert kept.largest_allocation.is_fragmented


class TestHolding:
    @pytest.mark.parametrize(
        ("listed", "held"),
        [
            (
                {MINE: GIB // 2, ANOTHER: GIB // 4},
                {"vllm": GIB // 2, "whisper": GIB // 4, "other": USED - 3 * GIB // 4},
            ),
            ({MINE: GIB // 2}, {"vllm": GIB // 2, "other": USED - GIB // 2}),
            (
                {MINE: GIB // 2, ANOTHER: None},
                {"vllm": GIB // 2, "other": USED - GIB // 2},
            ),
            ({}, {"other": USED}),
        ],
        ids=["both", "one that holds nothing", "one that is not told", "nobody is told"],
    )
    def test_while_servers_run_it_says_who_holds_what(self, trial, monkeypatch, listed, held):
        monkeypatch.setattr(ownership, "FRESH_S", 0.0)
        card, seen = Card(), []
        card.list_processes(listed)

        def look():
            seen.append(stages.holding())
            enough()

        standing = Standing(on_start=look, pids={"vllm": [MINE], "whisper": [ANOTHER]})
        stages = trial(card_bench(card), standing)
        with pytest.raises(Enough):
            stages.run()
        assert seen == [{"total_bytes": CARD.total_bytes, "by_tenant": held}]

    def test_while_nobody_watches_it_says_nothing(self, trial):
        seen = []
        at = {name: lambda: seen.append(stages.holding()) for name in ("predict", "stop")}
        stages = trial(card_bench(), at=at)
        assert stages.holding() is None
        with pytest.raises(Enough):
            stages.run()
        assert seen == [None, None]
        assert stages.holding() is None


def test_what_speaks_against_every_figure_of_a_device_is_said_of_every_trial(trial):
    class Paged(Card):
        def doubts(self):
            return ("Windows decides",)

    stages = trial(card_bench(Paged()))
    with pytest.raises(Enough):
        stages.run()
    assert stages.seen.all_doubts.count("Windows decides") == 1


class TestLearning:
    @pytest.fixture
    def judge(self, trial):
        """Start a server that says `facts`, start by start, up to the load."""

        def judge(*facts, known=None, ends=Enough, **standing):
            stand = Standing(facts=list(facts), **standing)
            stages = trial(card_bench(shape=QWEN), stand, known=known or Calibration())
            with pytest.raises(ends) as caught:
                stages.run()
            return stages.seen, stand.done, caught.value

        return judge

    @pytest.fixture
    def known(self, judge):
        seen, done, _ = judge(STARTED)
        assert done == ["up", "load llm", "gone"]
        return seen.calibration

    def test_a_first_start_teaches_and_is_no_surprise(self, judge):
        seen, done, _ = judge(DISTURBED)
        assert len(seen.calibration.starts) == 1
        assert "vllm up again" not in done
        assert seen.all_doubts == ()

    def test_a_start_as_expected_teaches_again(self, judge, known):
        seen, done, _ = judge(STARTED, known=known)
        assert len(seen.calibration.starts) == 2
        assert "vllm up again" not in done
        assert seen.all_doubts == ()

    def test_a_start_while_memory_moved_is_measured_again(self, judge, known):
        seen, done, _ = judge(DISTURBED, STARTED, known=known)
        assert done[:2] == ["up", "vllm up again"]
        (doubt,) = seen.all_doubts
        assert doubt.startswith("the KV cache is 0.10 GiB, expected were ")
        assert doubt.endswith("; vllm was started again")
        again, _, _ = judge(STARTED, known=known)
        assert seen.calibration == again.calibration
        assert len(seen.calibration.starts) == len(known.starts) + 1, "it teaches once"
        assert seen.started.facts == {"vllm": STARTED}, "what is kept is the second start's"

    def test_memory_that_moves_twice_is_the_benchs_fault_and_teaches_nothing(self, judge, known):
        seen, done, error = judge(DISTURBED, DISTURBED, known=known, ends=ProfilingRaceError)
        assert done == ["up", "vllm up again", "gone"]
        assert error.cause == "memory_profiling_race"
        assert str(error).endswith(", twice")
        assert seen.calibration is None

    def test_a_vllm_beside_which_others_started_is_not_started_again(self, judge, known):
        _, done, _ = judge(DISTURBED, known=known, restarts=())
        assert "vllm up again" not in done

    def test_a_device_whose_size_moved_is_a_doubt_and_no_reason_to_start_again(self, judge, known):
        moved = replace(DISTURBED, requested_bytes=int(0.5 * 12.5 * GIB))
        seen, done, _ = judge(moved, known=known)
        assert "vllm up again" not in done
        (doubt,) = seen.all_doubts
        assert "moved from 11.63 to 12.50 GiB" in doubt

    def test_the_most_that_whisper_ever_held_is_kept_beside_what_the_start_taught(
        self, trial, answers
    ):
        def shrink():
            card.list_processes({MINE: GIB})
            look_again(stages)

        card = Card()
        card.list_processes({MINE: 3 * GIB})
        standing = Standing(
            answers=answers,
            facts=[STARTED],
            on_start=shrink,
            pids={"vllm": [], "whisper": [MINE]},
        )
        stages = trial(card_bench(card, shape=QWEN), standing)
        stages.run()
        learned = stages.seen.calibration
        assert len(learned.starts) == 1
        assert [(peak.device, peak.peak_bytes) for peak in learned.whispers] == [("GPU-1", 3 * GIB)]

    def test_each_servers_peak_teaches_its_own_forecast(self, trial, answers):
        card = Card()
        card.list_processes({MINE: 3 * GIB, ANOTHER: GIB})
        bench = card_bench(card, shape=QWEN)
        settings = replace(bench.servers["whisper"].settings, model="tiny")
        scribe = replace(WHISPER, name="scribe", settings=settings)
        bench = replace(
            bench,
            servers={**bench.servers, "scribe": scribe},
            start_order=("whisper", "scribe", "vllm"),
        )
        pids = {"vllm": [], "whisper": [MINE], "scribe": [ANOTHER]}
        first = trial(bench, Standing(answers=answers, facts=[STARTED], pids=pids))
        first.run()
        assert len(first.seen.calibration.starts) == 1
        assert len(first.seen.calibration.whispers) == 2
        again = trial(bench, known=first.seen.calibration)
        with pytest.raises(Enough):
            again.run()
        held = {name: each.held for name, each in again.seen.prediction.forecasts.items()}
        for name, peak_bytes in (("whisper", 3 * GIB), ("scribe", GIB)):
            assert (held[name].value_bytes, held[name].source) == (peak_bytes, "calibrated")

    @pytest.mark.parametrize("grown", [GIB, 6 * GIB])
    def test_what_became_less_as_it_started_teaches_unless_it_is_too_much_to_be_its(
        self, trial, answers, grown
    ):
        def started():
            standing.seen = replace(standing.seen, grown={"whisper": grown})
            look_again(stages)

        pids = {"vllm": [], "whisper": [ANOTHER]}
        standing = Standing(answers=answers, on_start=started, pids=pids)
        stages = trial(card_bench(shape=QWEN), standing)
        stages.run()
        whispers = () if stages.seen.calibration is None else stages.seen.calibration.whispers
        doubts = [doubt for doubt in stages.seen.all_doubts if "others may have taken" in doubt]
        if grown == GIB:
            assert ([each.peak_bytes for each in whispers], doubts) == ([GIB], [])
        else:
            assert (whispers, len(doubts)) == ((), 1)
            assert doubts[0].startswith("the device had 6.00 GiB less when whisper had started")

    def test_a_whisper_whose_memory_nobody_tells_teaches_nothing(self, trial, answers):
        stages = trial(card_bench(shape=QWEN), Standing(answers=answers))
        stages.run()
        assert stages.seen.calibration is None or not stages.seen.calibration.whispers


class TestStop:
    @pytest.fixture
    def leave(self, trial, monkeypatch):
        """End a trial whose servers took memory, and gave it back or not: nobody waits for it."""

        def leave(kind, taken_bytes, *, back=False, listed=(MINE,), pids=None, **changes):
            grown = changes.pop("grown", {})
            patience = "SHARED_MEMORY_BACK_S" if kind == "cpu" else "MEMORY_BACK_S"
            monkeypatch.setattr(module, patience, 0.0)
            card = Card(kind)

            def take():
                card.take(taken_bytes)
                card.list_processes(dict.fromkeys(listed, taken_bytes))
                standing.seen = replace(standing.seen, grown=grown)
                look_again(stages)
                enough()

            def give_back():
                if back:
                    card.state = CARD

            tenants = {"vllm": [MINE], "whisper": [], **(pids or {})}
            standing = Standing(on_start=take, on_end=give_back, pids=tenants)
            stages = trial(card_bench(card, **changes), standing)
            with pytest.raises(BenchError) as caught:
                stages.run()
            assert standing.done == ["up", "gone"]
            return caught.value, stages

        return leave

    def test_a_process_of_ours_that_is_not_gone_stops_the_bench(self, leave):
        error, stages = leave("cuda", 2 * GIB)
        assert type(error) is OrphanError
        assert str(error) == f"card: 2.00 GiB are not back after 0 s; held by process {MINE}"
        assert phases_of(stages)[-1] == "stop"

    def test_somebody_elses_process_that_came_is_a_doubt(self, leave):
        error, stages = leave("cuda", 3 * GIB, listed=(ANOTHER,))
        assert type(error) is Enough
        name = psutil.Process(ANOTHER).name()
        assert (
            f"process {ANOTHER} ({name}) and held up to 3.00 GiB came to the device"
            in (stages.seen.all_doubts[-2])
        )

    def test_so_is_one_of_a_neighbour_that_runs_anyway(self, leave):
        ollama = Running(name="ollama", match="nobody")
        error, stages = leave(
            "cuda", 3 * GIB, listed=(ANOTHER,), neighbours=[ollama], pids={"ollama": [ANOTHER]}
        )
        assert type(error) is Enough
        assert not any("none of the study's" in doubt for doubt in stages.seen.all_doubts)

    @pytest.mark.parametrize(
        ("grown", "ends"), [({"vllm": 2 * GIB}, OrphanError), ({"vllm": 6 * GIB}, Enough)]
    )
    def test_where_no_process_is_listed_only_what_our_servers_held_stops_it(
        self, leave, grown, ends
    ):
        error, stages = leave("cuda", 2 * GIB, listed=(), grown=grown)
        assert type(error) is ends
        if ends is Enough:
            assert stages.seen.all_doubts[-1] == (
                "other programs took memory meanwhile: card: 2.00 GiB are not back after 0 s"
            )

    def test_memory_that_is_not_back_on_a_cpu_is_a_doubt(self, leave):
        error, stages = leave("cpu", 2 * GIB, listed=())
        assert type(error) is Enough
        assert stages.seen.all_doubts[-1] == (
            "other programs took memory meanwhile: card: 2.00 GiB are not back after 0 s"
        )

    @pytest.mark.parametrize("kind", ["cuda", "cpu"])
    def test_it_is_looked_for_once_the_servers_are_gone(self, leave, kind):
        error, stages = leave(kind, 2 * GIB, back=True)
        assert type(error) is Enough
        assert not any("meanwhile" in doubt for doubt in stages.seen.all_doubts)

    @pytest.mark.parametrize(
        ("over_bytes", "ends"), [(0, Enough), (1, OrphanError)], ids=["slack", "more"]
    )
    def test_a_little_less_than_before_is_what_drivers_keep(self, leave, over_bytes, ends):
        error, _ = leave("cuda", MEMORY_SLACK_BYTES + over_bytes)
        assert type(error) is ends

    def test_the_stop_is_timed_whatever_went_before(self, leave):
        _, stages = leave("cuda", 0)
        assert set(stages.watch.seconds()) == {"predict", "start", "stop", "other"}


@dataclass(frozen=True, kw_only=True)
class Interrupted(VllmKind):
    """A vLLM whose user presses Ctrl-C as it is asked for the first time."""

    def ready(self, url, key):
        return lambda: signal.raise_signal(signal.SIGINT)


class TestAnInterrupt:
    def test_in_a_start_leaves_who_was_started_and_how(self, tmp_path):
        bench = FakeBench(tmp_path).bench
        vllm = Interrupted(**vars(bench.servers["vllm"]))
        stages = TrialStages(
            bench=replace(bench, servers={**bench.servers, "vllm": vllm}),
            params={"vllm_memory_util": 0.15, "whisper_model_size": "tiny"},
            folder=tmp_path,
            watch=Stopwatch(),
            calibration=Calibration(),
        )
        with pytest.raises(KeyboardInterrupt):
            stages.run()
        seen = stages.seen
        assert seen.before is not None
        assert seen.prediction.fits
        assert list(seen.started.launches) == ["whisper", "vllm"]
        assert [log.name for log in seen.started.logs] == ["whisper.log", "vllm.log"]
        assert all(log.exists() for log in seen.started.logs)
        assert seen.started.health["whisper"]["model"] == "tiny"
        assert seen.started.facts == {}
        assert seen.watched.window.samples == seen.watched.whole.samples != ()
        assert (seen.driven, seen.conclusion, seen.calibration) == (None, None, None)
        kept = seen.to_evidence(quantile="p50", inherited={})
        assert set(kept.settings) == set(kept.footprint) == {"whisper", "vllm"}
        assert kept.footprint["vllm"].predicted.fits
        assert phases_of(stages)[-1] == "stop"
        assert children() == []

    def test_under_load_leaves_what_the_start_taught(self, trial, answers):
        standing = Standing(answers=answers, facts=[STARTED])
        at = {"measure": lambda: signal.raise_signal(signal.SIGINT)}
        stages = trial(card_bench(shape=QWEN), standing, at=at)
        with pytest.raises(KeyboardInterrupt):
            stages.run()
        seen = stages.seen
        assert seen.started.facts == {"vllm": STARTED}
        assert len(seen.calibration.starts) == 1
        assert seen.watched.window.samples == seen.watched.whole.samples != ()
        assert (seen.driven, seen.conclusion) == (None, None)
        assert standing.done[-1] == "gone"

    def test_after_the_load_leaves_every_request(self, trial, answers):
        standing = Standing(answers=answers)
        at = {"stop": lambda: signal.raise_signal(signal.SIGINT)}
        stages = trial(card_bench(), standing, at=at)
        with pytest.raises(KeyboardInterrupt):
            stages.run()
        assert len(stages.seen.driven.samples) == len(plan(LOAD).measure)
        assert stages.seen.watched is not None
        assert stages.seen.conclusion is None
        assert standing.done[-1] == "gone"


def children():
    """Command lines of this process's children, Python's own left out."""
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    return [line for line in commands if "resource_tracker" not in line]


def test_all_stages_on_servers_that_are_processes(tmp_path):
    bench = FakeBench(tmp_path).bench
    folder = tmp_path / "trial"
    folder.mkdir()
    told = []

    def tell(name):
        told.append(name)
        if name == "warmup":
            until_held(stages, "vllm", "whisper")

    stages = TrialStages(
        bench=bench,
        params={"vllm_memory_util": 0.15, "whisper_model_size": "tiny"},
        folder=folder,
        watch=Stopwatch(on_phase=tell),
        calibration=Calibration(),
    )
    conclusion = stages.run()
    seen = stages.seen
    assert {"stt_latency_ms", "llm_latency_ms", "concurrent_capacity"} <= set(conclusion.figures)
    assert told == [
        "predict",
        "start",
        *("start neighbours", "start whisper", "start vllm"),
        *("warmup", "measure", "drain"),
        "stop",
    ]
    assert {log.name for log in folder.iterdir()} == {"vllm.log", "whisper.log"}
    assert seen.watched.whole.tenants_bytes["vllm"] > 0
    assert len(seen.calibration.starts) == len(seen.calibration.whispers) == 1
    assert set(seen.started.launches) == {"vllm", "whisper"}
    assert set(seen.started.facts) == {"vllm"}
    assert seen.largest_allocation.before == "vllm"
    assert seen.largest_allocation.why_not.startswith("not told on a CPU")
    assert children() == []
