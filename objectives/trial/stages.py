"""The stages of one trial: predict, start, load, stop, conclude. They raise why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objectives.candidate import Candidate
from objectives.causes import remedy_of
from objectives.device import XidWatch, wait_for_memory
from objectives.errors import (
    DoesNotFitError,
    OrphanError,
    OutOfBoundsError,
    OutOfMemoryError,
    OverBudgetError,
    ProfilingRaceError,
    ServerDiedError,
)
from objectives.load import drive
from objectives.memory import Calibration
from objectives.space import Scalar
from objectives.telemetry import Telemetry, TelemetryRecord
from objectives.trial.attribution import MachineWatch, cause_of_end
from objectives.trial.bench import Bench
from objectives.trial.conclusion import conclude
from objectives.trial.evidence import Evidence
from objectives.trial.prediction import predict_on_bench
from objectives.trial.stopwatch import Stopwatch
from objectives.trial.tenants import Tenants

MEMORY_BACK_S = 30.0
"""Seconds within which a trial's memory must be back after its servers are gone."""

SHARED_MEMORY_BACK_S = 3.0
"""The same where the memory is not ours alone."""

MEMORY_SLACK_BYTES = 768 << 20
"""How much less may be free after a trial than before it: page tables, drivers, other people."""


@dataclass
class TrialStages:
    """Judge one point of the space.

    Attributes:
        bench: What stays the same from trial to trial.
        params: The point.
        folder: Where logs and samples go; it exists.
        watch: Times the phases.
        calibration: What earlier starts taught.
        evidence: What the trial saw so far.
        telemetry: Watches the device while servers run; None before and after.
    """

    bench: Bench
    params: Mapping[str, Scalar]
    folder: Path
    watch: Stopwatch
    calibration: Calibration
    evidence: Evidence = field(default_factory=Evidence)
    telemetry: Telemetry | None = None

    def run(self) -> dict[str, float]:
        """All stages, one after the other.

        Returns:
            Every figure of the trial that can be an objective, in people's units.

        Raises:
            ServingError: Why there is none; `evidence` holds what was seen until then.
        """
        candidate = self._predict()
        with ExitStack() as stack:
            try:
                self._serve(stack, candidate)
            finally:
                # Before the servers end: their memory goes now, and nobody should read that as a
                # measurement.
                self.telemetry = None
                with self.watch.phase("stop"):
                    stack.close()
                    self._see_memory_back()
        return conclude(self.bench, self.evidence, self._check_budget)

    def _predict(self) -> Candidate:
        """What arithmetic knows before anything is launched."""
        bench, evidence = self.bench, self.evidence
        with self.watch.phase("predict"):
            candidate = Candidate.lay(
                bench.space, self.params, vllm=bench.vllm, whisper=bench.whisper
            )
            evidence.candidate = candidate
            evidence.excess["bounds"] = bench.space.excess(self.params)
            if evidence.excess["bounds"] > 0:
                raise OutOfBoundsError(
                    "out_of_bounds",
                    bench.space.out_of_bounds(self.params),
                    excess={"bounds": evidence.excess["bounds"]},
                    predicted=True,
                )
            evidence.before = bench.device.read()
            prediction = predict_on_bench(candidate, bench, evidence.before, self.calibration)
            evidence.prediction = prediction
            evidence.excess.update(prediction.excess)
            evidence.doubts += prediction.doubts
            if prediction.is_refused:
                raise DoesNotFitError(
                    prediction.cause or "device_memory",
                    prediction.evidence,
                    remedy=prediction.remedy,
                    excess={k: v for k, v in prediction.excess.items() if v > 0},
                    predicted=True,
                )
        return candidate

    def _serve(self, stack: ExitStack, candidate: Candidate) -> None:
        """Everybody up, then the load."""
        watch = stack.enter_context(XidWatch(self.bench.device))
        machine = MachineWatch(self.bench.device, watch)
        tenants = Tenants(
            bench=self.bench,
            candidate=candidate,
            folder=self.folder,
            allowed_s=self._allowed_s,
            step=self.watch.step,
            machine=machine,
            doubts=self.evidence.doubts,
        )
        self.evidence.tenants = tenants
        with Telemetry(self.bench.device, tenants.groups()) as self.telemetry:
            try:
                with self.watch.phase("start"):
                    tenants.start(stack)
                    self._learn(tenants, stack)
                self._load(tenants, machine)
                self._learn_whisper(self.telemetry)
            finally:
                self.evidence.telemetry = self._recorded(self.telemetry)
                self.evidence.whole_telemetry = self.telemetry.record()
                self.evidence.telemetry_began_s = self.telemetry.began_s - self.watch.began_s

    def _recorded(self, telemetry: Telemetry) -> TelemetryRecord | None:
        """The window of the load where there was one, else all."""
        if self.evidence.driven is None:
            return telemetry.record()
        window = next(span for span in self.evidence.driven.spans if span.name == "measure")
        return telemetry.record(
            since_s=window.start_s - telemetry.began_s, until_s=window.end_s - telemetry.began_s
        )

    def _learn(self, tenants: Tenants, stack: ExitStack) -> None:
        """Hold the start's log against the prediction; measured again once if memory moved."""
        prediction, started = self.evidence.prediction, tenants.started
        if prediction is None or started is None:
            return
        if moved := prediction.moved(started):
            self.evidence.doubts.append(moved)
        # Only a calibrated prediction can be surprised, and then memory moved while vLLM profiled:
        # the same settings are started once more before anybody believes the figure.
        elif (surprise := prediction.surprise(started)) and tenants.may_restart:
            self.evidence.doubts.append(f"{surprise}; vLLM was started again")
            tenants.restart_vllm(stack)
            started = tenants.started
            if started is not None and (again := prediction.surprise(started)):
                raise ProfilingRaceError(f"{again}, twice", cause="memory_profiling_race")
        if started is not None:
            self.evidence.calibration = prediction.learn(self.calibration, started)

    def _learn_whisper(self, telemetry: Telemetry) -> None:
        """Keep the most that Whisper held, for the predictions to come."""
        # Over the whole trial, not the window: a speech model's peak is in its first request.
        peak_bytes = telemetry.record().tenants_bytes.get("whisper")
        if peak_bytes and self.evidence.prediction is not None:
            known = self.evidence.calibration or self.calibration
            self.evidence.calibration = self.evidence.prediction.learn_whisper(known, peak_bytes)

    def _load(self, tenants: Tenants, machine: MachineWatch) -> None:
        """Both servers at once, under the same load as every other candidate."""
        began_s = self.watch.began_s

        def check() -> None:
            tenants.check()
            self._check_budget()
            if self.telemetry is not None:
                self.telemetry.check()

        try:
            self.evidence.driven = drive(
                self.bench.trace,
                llm=tenants.target("vllm"),
                stt=tenants.target("whisper"),
                check=check,
                on_phase=self.watch.on_phase,
            )
            tenants.check()
        except ServerDiedError as error:
            raise cause_of_end(error, machine, serving=True) from error
        for span in self.evidence.driven.spans:
            self.watch.note(
                "warmup" if span.name == "warmup" else "measure",
                span.start_s - began_s,
                span.end_s - began_s,
                shown=span.name,
            )
        self._check_out_of_memory()

    def _check_out_of_memory(self) -> None:
        """A server that answers 507 lives on, but the candidate is out of memory."""
        assert self.evidence.driven is not None
        for sample in (*self.evidence.driven.warmup, *self.evidence.driven.samples):
            if sample.failure is not None and sample.failure.kind == "oom":
                raise OutOfMemoryError(
                    "cuda_oom_serving",
                    f"{sample.server}: {sample.failure.message}",
                    # Only our Whisper answers 507.
                    remedy=remedy_of("cuda_oom_serving", {}, "whisper"),
                )

    def _allowed_s(self, most_s: float) -> float:
        """Seconds that a start may take: its own limit, or what is left of the trial's."""
        self._check_budget()
        limit_s = self.bench.trial_timeout_s
        # A tenth of a second more than is left: a start that runs out of time then finds the
        # budget exceeded and is reported as that, not as a server that was too slow.
        return most_s if limit_s is None else min(most_s, limit_s - self.watch.elapsed_s + 0.1)

    def _check_budget(self) -> None:
        """Raises `OverBudgetError` when the trial has run too long."""
        limit_s = self.bench.trial_timeout_s
        if limit_s is None:
            return
        over_s = self.watch.elapsed_s - limit_s
        self.evidence.excess["time_budget_s"] = over_s
        if over_s > 0:
            raise OverBudgetError(
                "over_time_budget",
                f"{self.watch.elapsed_s:.0f} s of {limit_s:.0f} s were used",
                excess={"time_budget_s": over_s},
            )

    def _see_memory_back(self) -> None:
        """No trial begins on what another one left.

        A CPU's memory is everybody's: once our processes are gone, so is what they held, and what
        is missing then is somebody else's.
        """
        if self.evidence.before is None or self.evidence.tenants is None:
            return
        shared = self.bench.device.kind == "cpu"
        try:
            wait_for_memory(
                self.bench.device,
                self.evidence.before,
                tolerance_bytes=MEMORY_SLACK_BYTES,
                deadline_s=SHARED_MEMORY_BACK_S if shared else MEMORY_BACK_S,
            )
        except OrphanError as error:
            if not shared:
                raise
            self.evidence.doubts.append(f"other programs took memory meanwhile: {error}")

    def holding(self) -> Mapping[str, Any] | None:
        """Who holds how many bytes of the device now; None while nobody watches."""
        telemetry = self.telemetry
        if telemetry is None:
            return None
        last = telemetry.record(since_s=telemetry.now_s() - 2).samples[-1]
        held = {name: size for name, size in last.by_tenant.items() if size}
        if last.other_bytes is not None:
            held["other"] = last.other_bytes
        return {"total_bytes": last.total_bytes, "by_tenant": held}
