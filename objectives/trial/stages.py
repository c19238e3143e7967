"""The stages of one trial: predict, start, load, stop, conclude. They raise why it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from objectives.candidate import Candidate
from objectives.causes import remedy_of
from objectives.device import Own, XidWatch, largest_allocation, wait_for_memory
from objectives.errors import (
    DoesNotFitError,
    InfeasibleError,
    OutOfBoundsError,
    OutOfMemoryError,
    OverBudgetError,
    ProfilingRaceError,
    ServerDiedError,
)
from objectives.load import Driven, drive
from objectives.memory import Calibration
from objectives.servers import Running
from objectives.telemetry import Ownership, Telemetry
from objectives.trial.attribution import MachineWatch
from objectives.trial.bench import Bench
from objectives.trial.conclusion import conclude
from objectives.trial.evidence import Conclusion, Seen, Started, Watched
from objectives.trial.prediction import CandidatePrediction, predict_on_bench
from objectives.trial.refusal import REFUSED
from objectives.trial.stopwatch import Stopwatch
from objectives.trial.tenants import Tenants
from objectives.units import Scalar, gib

MEMORY_BACK_S = 30.0
"""Seconds within which a trial's memory must be back after its servers are gone."""

SHARED_MEMORY_BACK_S = 3.0
"""The same where the memory is not ours alone."""

MEMORY_SLACK_BYTES = 768 << 20
"""How much less may be free after a trial than before it: page tables, drivers, other people."""


@dataclass
class TrialStages:
    """Judge one point of the space.

    Every stage returns what it saw. This is the only place that keeps it, so that a trial which
    ends early still has what was seen until then.

    Attributes:
        bench: What stays the same from trial to trial.
        params: The point.
        folder: Where logs and samples go; it exists.
        watch: Times the phases.
        calibration: What earlier starts taught.
        worked: Points of the study at which all servers came up.
        seen: What the stages returned so far.
        telemetry: Watches the device while servers run; None before and after.
        own: What the trial's tenants had of the device, once they ran.
    """

    bench: Bench
    params: Mapping[str, Scalar]
    folder: Path
    watch: Stopwatch
    calibration: Calibration
    worked: Sequence[Mapping[str, Scalar]] = ()
    seen: Seen = field(default_factory=Seen)
    telemetry: Telemetry | None = None
    own: Own = field(default_factory=Own)
    _asking: tuple[float, float] = (math.inf, -math.inf)

    def run(self) -> Conclusion:
        """All stages, one after the other.

        Returns:
            What the load came to, with the objectives' values.

        Raises:
            ServingError: Why there is none; `seen` holds what was seen until then.
        """
        with self.watch.phase("predict"):
            candidate, prediction = self._predict()
        with ExitStack() as stack:
            try:
                started, driven, watched = self._serve(stack, candidate, prediction)
            finally:
                # Before the servers end: their memory goes now, and nobody should read that as a
                # measurement.
                self.telemetry = None
                with self.watch.phase("stop"):
                    stack.close()
                    self._see_memory_back()
        conclusion = conclude(
            self.bench,
            driven,
            watched.window,
            candidate=candidate,
            prediction=prediction,
            started=started,
        )
        self.seen = replace(self.seen, conclusion=conclusion)
        # What the candidate did says more than how long it took; what the bench missed, less.
        if not isinstance(conclusion.failure, InfeasibleError):
            self._check_budget()
        if conclusion.failure is not None:
            raise conclusion.failure
        return conclusion

    def _doubt(self, *doubts: str) -> None:
        self.seen = replace(self.seen, doubts=(*self.seen.doubts, *doubts))

    def _exceeds(self, constraint: str, excess: float) -> None:
        self.seen = replace(self.seen, excess={**self.seen.excess, constraint: excess})

    def _predict(self) -> tuple[Candidate, CandidatePrediction]:
        """What arithmetic knows before anything is launched."""
        bench = self.bench
        candidate = Candidate.lay(bench.space, self.params, bench.settings)
        outside = bench.space.excess(self.params)
        self._exceeds("bounds", outside)
        if outside > 0:
            raise OutOfBoundsError(
                "out_of_bounds",
                bench.space.out_of_bounds(self.params),
                excess={"bounds": outside},
                predicted=True,
            )
        self._doubt(*bench.device.doubts())
        before = bench.device.read()
        prediction = predict_on_bench(candidate, bench, before, self.calibration)
        self.seen = replace(self.seen, before=before, prediction=prediction)
        if (refusal := prediction.refusal) is not None:
            raise DoesNotFitError(
                refusal.cause or "device_memory",
                refusal.evidence,
                remedy=refusal.remedy,
                excess={k: v for k, v in prediction.excess.items() if v > 0},
                predicted=True,
            )
        return candidate, prediction

    def _serve(
        self, stack: ExitStack, candidate: Candidate, prediction: CandidatePrediction
    ) -> tuple[Started, Driven, Watched]:
        """Everybody up, then the load."""
        watch = stack.enter_context(XidWatch(self.bench.device))
        machine = MachineWatch(self.bench.device, watch)
        tenants = Tenants(
            bench=self.bench,
            candidate=candidate,
            folder=self.folder,
            step=self.watch.step,
            machine=machine,
            before_llm=self._ask_largest,
            worked=self.worked,
        )
        ownership = Ownership()
        with Telemetry(
            self.bench.device,
            tenants.groups(),
            grown=lambda: tenants.started().grown,
            ownership=ownership,
        ) as telemetry:
            self.telemetry = telemetry
            try:
                with self.watch.phase("start"):
                    tenants.start(stack)
                    self._exceeds("start_refused", -REFUSED)
                    self._learn(prediction, tenants, stack)
                driven = self._load(tenants, telemetry)
                self._learn_peaks(prediction, telemetry)
            finally:
                # Not a name of this block: the load may have been whole, and its end not.
                started, watched = tenants.started(), self._watched(telemetry, self.seen.driven)
                self.seen = replace(self.seen, started=started, watched=watched)
                self._tell_whose(ownership)
        return started, driven, watched

    def _tell_whose(self, ownership: Ownership) -> None:
        """Which memory was the trial's own, and who else came to the device meanwhile."""
        found = [each for each in self.bench.neighbours if isinstance(each, Running)]
        passing = {*self.bench.servers, *(each.name for each in self.bench.neighbours)}
        self.own = ownership.of(passing - {each.name for each in found})
        for stranger in ownership.strangers():
            self._doubt(f"{stranger} came to the device meanwhile; it is none of the study's")

    def _ask_largest(self, before: str) -> None:
        """Ask what the device gives in one piece beside all who are up; `before` starts next."""
        assert self.telemetry is not None, "servers start while somebody watches"
        began_s, device = self.telemetry.now_s(), self.bench.device
        asks = device.kind != "cpu"  # there it only says why not
        with self.watch.step("largest allocation") if asks else nullcontext():
            found = largest_allocation(device, leave_bytes=self.bench.headroom_bytes)
        self._asking = (began_s, self.telemetry.now_s())
        self.seen = replace(self.seen, largest_allocation=replace(found, before=before))

    def _watched(self, telemetry: Telemetry, driven: Driven | None) -> Watched:
        """The device during the window of the load where there was one, else all the time."""
        record, (began_s, ended_s) = telemetry.record(), self._asking
        # What the probe held for a moment is nobody's peak.
        apart = tuple(s for s in record.samples if not began_s <= s.time_s <= ended_s)
        whole = window = replace(record, samples=apart or record.samples)
        if driven is not None:
            span = next(span for span in driven.spans if span.phase == "measure")
            window = telemetry.record(
                since_s=span.start_s - telemetry.began_s, until_s=span.end_s - telemetry.began_s
            )
        return Watched(window=window, whole=whole, began_s=telemetry.began_s - self.watch.began_s)

    def _learn(self, prediction: CandidatePrediction, tenants: Tenants, stack: ExitStack) -> None:
        """Hold every start's log against its forecast; measured again once if memory moved."""
        for name, forecast in prediction.forecasts.items():
            facts = tenants.started().facts.get(name)
            if facts is None:
                continue
            if moved := forecast.moved(facts):
                self._doubt(moved)
            # Only a calibrated forecast can be surprised, and then memory moved while the server
            # profiled: the same settings are started once more before anybody believes the figure.
            elif (surprise := forecast.surprise(facts)) and tenants.may_restart(name):
                self._doubt(f"{surprise}; {name} was started again")
                facts = tenants.restart(stack, name)
                if facts is None:
                    continue
                if again := forecast.surprise(facts):
                    raise ProfilingRaceError(f"{again}, twice", cause="memory_profiling_race")
            self.seen = replace(self.seen, calibration=forecast.learn(self._known, facts))

    @property
    def _known(self) -> Calibration:
        return self.seen.calibration or self.calibration

    def _learn_peaks(self, prediction: CandidatePrediction, telemetry: Telemetry) -> None:
        """Keep the most that each server held, for the predictions to come."""
        # Over the whole trial, not the window: a speech model's peak is in its first request.
        record = telemetry.record()
        peaks = record.tenants_bytes
        for name, forecast in prediction.forecasts.items():
            if not (peak_bytes := peaks.get(name)):
                continue
            # What became less at a start may be somebody else's, and a peak is kept for good.
            by_difference = record.memory_sources.get(name) == "difference"
            if by_difference and forecast.held and peak_bytes > 2 * forecast.held.value_bytes:
                self._doubt(
                    f"the device had {gib(peak_bytes)} less when {name} had started, which was "
                    f"expected to hold {gib(forecast.held.value_bytes)}: others may have taken some"
                )
                continue
            self.seen = replace(self.seen, calibration=forecast.learn_peak(self._known, peak_bytes))

    def _load(self, tenants: Tenants, telemetry: Telemetry) -> Driven:
        """All servers at once, under the same load as every other candidate."""

        def check() -> None:
            tenants.check()
            self._check_budget()
            telemetry.check()

        try:
            driven = drive(
                self.bench.trace,
                llm=tenants.target("llm"),
                stt=tenants.target("stt"),
                check=check,
                on_phase=self.watch.on_phase,
            )
            self.seen = replace(self.seen, driven=driven)
            tenants.check()
        except ServerDiedError as error:
            raise tenants.cause_of_end(error, serving=True) from error
        for span in driven.spans:
            self.watch.note("warmup" if span.phase == "warmup" else "measure", span)
        self._check_out_of_memory(driven)
        return driven

    def _check_out_of_memory(self, driven: Driven) -> None:
        """A server that answers 507 lives on, but the candidate is out of memory."""
        for sample in (*driven.warmup, *driven.samples):
            if sample.failure is not None and sample.failure.kind == "oom":
                kind = self.bench.serving(sample.server)
                raise OutOfMemoryError(
                    "cuda_oom_serving",
                    f"{sample.server}: {sample.failure.message}",
                    remedy=remedy_of("cuda_oom_serving", {}, kind.family if kind else ""),
                )

    def _check_budget(self) -> None:
        """Raises `OverBudgetError` when the trial has run too long, starts left out.

        The first start of an engine compiles, downloads and fills caches, and so does the first one
        with another type or shape. That is no candidate's fault; starts have limits of their own.
        """
        limit_s = self.bench.trial_timeout_s
        if limit_s is None:
            return
        used_s = self.watch.counted_s
        over_s = used_s - limit_s
        self._exceeds("time_budget_s", over_s)
        if over_s > 0:
            raise OverBudgetError(
                "over_time_budget",
                f"{used_s:.0f} s of {limit_s:.0f} s were used, starts not counted",
                excess={"time_budget_s": over_s},
            )

    def _see_memory_back(self) -> None:
        """No trial begins on what another one left; what others took meanwhile is a doubt.

        A CPU's memory is everybody's: once our processes are gone, so is what they held, and what
        is missing then is somebody else's.
        """
        before = self.seen.before
        if before is None:
            return
        shared = self.bench.device.kind == "cpu"
        taken = wait_for_memory(
            self.bench.device,
            before,
            Own() if shared else self.own,
            tolerance_bytes=MEMORY_SLACK_BYTES,
            deadline_s=SHARED_MEMORY_BACK_S if shared else MEMORY_BACK_S,
        )
        if taken is not None:
            self._doubt(f"other programs took memory meanwhile: {taken}")

    def holding(self) -> Mapping[str, Any] | None:
        """Who holds how many bytes of the device now; None while nobody watches.

        `other` is what is used and known of no tenant: that of a server that starts, too.
        """
        telemetry = self.telemetry
        if telemetry is None:
            return None
        last = telemetry.record(since_s=telemetry.now_s() - 2).samples[-1]
        held = {name: size for name, size in last.by_tenant.items() if size}
        held["other"] = max(0, last.used_bytes - sum(held.values()))
        return {"total_bytes": last.total_bytes, "by_tenant": held}
