"""One trial's walk: predict, start, load, stop, conclude. It raises why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objectives.candidate import Candidate
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
from objectives.trial import conclusion, prediction
from objectives.trial.attribution import Witness, blame
from objectives.trial.bench import Bench
from objectives.trial.evidence import Seen
from objectives.trial.stopwatch import Stopwatch
from objectives.trial.tenants import Tenants

MEMORY_BACK_S = 30.0
"""Seconds within which a trial's memory must be back after its servers are gone."""

SHARED_MEMORY_BACK_S = 3.0
"""The same where the memory is not ours alone."""

MEMORY_SLACK_BYTES = 768 << 20
"""How much less may be free after a trial than before it: page tables, drivers, other people."""


@dataclass
class Walk:
    """Judge one point of the space.

    Attributes:
        bench: What stays the same from trial to trial.
        params: The point.
        folder: Where logs and samples go; it exists.
        watch: Times the phases.
        calibration: What earlier starts taught.
        seen: What was seen so far.
        telemetry: Watches the device while servers run; None before and after.
    """

    bench: Bench
    params: Mapping[str, Scalar]
    folder: Path
    watch: Stopwatch
    calibration: Calibration
    seen: Seen = field(default_factory=Seen)
    telemetry: Telemetry | None = None

    def run(self) -> dict[str, float]:
        """The whole walk.

        Returns:
            Every figure of the trial that can be an objective, in people's units.

        Raises:
            ServingError: Why there is none; `seen` holds what was seen until then.
        """
        candidate = self._predict()
        with ExitStack() as stack:
            try:
                self._serve(stack, candidate)
            finally:
                self.telemetry = None
                with self.watch.phase("stop"):
                    stack.close()
                    self._see_memory_back()
        return conclusion.conclude(self.bench, self.seen, self._check_budget)

    def _predict(self) -> Candidate:
        """What arithmetic knows before anything is launched."""
        bench, seen = self.bench, self.seen
        with self.watch.phase("predict"):
            candidate = Candidate.lay(
                bench.space, self.params, vllm=bench.vllm, whisper=bench.whisper
            )
            seen.candidate = candidate
            seen.excess["bounds"] = bench.space.excess(self.params)
            if seen.excess["bounds"] > 0:
                raise OutOfBoundsError(
                    "out_of_bounds",
                    bench.space.out_of_bounds(self.params),
                    remedy="Stay inside the hard bounds of the space.",
                    excess={"bounds": seen.excess["bounds"]},
                    predicted=True,
                )
            seen.before = bench.device.read()
            prospect = prediction.look(candidate, bench, seen.before, self.calibration)
            seen.prospect = prospect
            seen.excess.update(prospect.excess)
            seen.doubts += prospect.doubts
            if prospect.is_refused:
                raise DoesNotFitError(
                    prospect.cause or "device_memory",
                    prospect.evidence,
                    remedy=prospect.remedy,
                    excess={k: v for k, v in prospect.excess.items() if v > 0},
                    predicted=True,
                )
        return candidate

    def _serve(self, stack: ExitStack, candidate: Candidate) -> None:
        """Everybody up, then the load."""
        watch = stack.enter_context(XidWatch(self.bench.device))
        witness = Witness(self.bench.device, watch)
        tenants = Tenants(
            bench=self.bench,
            candidate=candidate,
            folder=self.folder,
            allowed_s=self._allowed_s,
            step=self.watch.step,
            witness=witness,
            doubts=self.seen.doubts,
        )
        self.seen.tenants = tenants
        with Telemetry(self.bench.device, tenants.groups()) as self.telemetry:
            try:
                with self.watch.phase("start"):
                    tenants.start(stack)
                    self._learn(tenants, stack)
                self._load(tenants, witness)
                self._learn_whisper(self.telemetry)
            finally:
                self.seen.telemetry = self._recorded(self.telemetry)
                self.seen.whole_telemetry = self.telemetry.record()
                self.seen.telemetry_began_s = self.telemetry.began_s - self.watch.began_s

    def _recorded(self, telemetry: Telemetry) -> TelemetryRecord | None:
        """The window of the load where there was one, else all."""
        if self.seen.driven is None:
            return telemetry.record()
        window = next(span for span in self.seen.driven.spans if span.name == "measure")
        return telemetry.record(
            since_s=window.start_s - telemetry.began_s, until_s=window.end_s - telemetry.began_s
        )

    def _learn(self, tenants: Tenants, stack: ExitStack) -> None:
        """Hold the start's log against the prediction; measured again once if memory moved."""
        prospect, started = self.seen.prospect, tenants.started
        if prospect is None or started is None:
            return
        if moved := prospect.moved(started):
            self.seen.doubts.append(moved)
        elif (surprise := prospect.surprise(started)) and tenants.may_restart:
            self.seen.doubts.append(f"{surprise}; vLLM was started again")
            tenants.restart_vllm(stack)
            started = tenants.started
            if started is not None and (again := prospect.surprise(started)):
                raise ProfilingRaceError(f"{again}, twice", cause="memory_profiling_race")
        if started is not None:
            self.seen.calibration = prospect.learn(self.calibration, started)

    def _learn_whisper(self, telemetry: Telemetry) -> None:
        """Keep the most that Whisper held, for the predictions to come."""
        peak_bytes = telemetry.record().tenants_bytes.get("whisper")
        if peak_bytes and self.seen.prospect is not None:
            known = self.seen.calibration or self.calibration
            self.seen.calibration = self.seen.prospect.learn_whisper(known, peak_bytes)

    def _load(self, tenants: Tenants, witness: Witness) -> None:
        """Both servers at once, under the same load as every other candidate."""
        began_s = self.watch.began_s

        def check() -> None:
            tenants.check()
            self._check_budget()
            if self.telemetry is not None:
                self.telemetry.check()

        try:
            self.seen.driven = drive(
                self.bench.trace,
                llm=tenants.target("vllm"),
                stt=tenants.target("whisper"),
                check=check,
                on_phase=self.watch.told,
            )
            tenants.check()
        except ServerDiedError as error:
            raise blame(error, witness, serving=True) from error
        for span in self.seen.driven.spans:
            self.watch.note(
                "warmup" if span.name == "warmup" else "measure",
                span.start_s - began_s,
                span.end_s - began_s,
                shown=span.name,
            )
        self._check_out_of_memory()

    def _check_out_of_memory(self) -> None:
        """A server that answers 507 lives on, but the candidate is out of memory."""
        assert self.seen.driven is not None
        for sample in (*self.seen.driven.warmup, *self.seen.driven.samples):
            if sample.failure is not None and sample.failure.kind == "oom":
                raise OutOfMemoryError(
                    "cuda_oom_serving",
                    f"{sample.server}: {sample.failure.message}",
                    remedy="Leave it more memory: lower vLLM's utilisation, or take a smaller "
                    "Whisper model.",
                )

    def _allowed_s(self, most_s: float) -> float:
        """Seconds that a start may take: its own limit, or what is left of the trial's."""
        self._check_budget()
        limit_s = self.bench.trial_timeout_s
        return most_s if limit_s is None else min(most_s, limit_s - self.watch.elapsed_s + 0.1)

    def _check_budget(self) -> None:
        """Raises `OverBudgetError` when the trial has run too long."""
        limit_s = self.bench.trial_timeout_s
        if limit_s is None:
            return
        over_s = self.watch.elapsed_s - limit_s
        self.seen.excess["time_budget_s"] = over_s
        if over_s > 0:
            raise OverBudgetError(
                "over_time_budget",
                f"{self.watch.elapsed_s:.0f} s of {limit_s:.0f} s were used",
                remedy="Give a trial more time, or shorten its load.",
                excess={"time_budget_s": over_s},
            )

    def _see_memory_back(self) -> None:
        """No trial begins on what another one left.

        A CPU's memory is everybody's: once our processes are gone, so is what they held, and what
        is missing then is somebody else's.
        """
        if self.seen.before is None or self.seen.tenants is None:
            return
        shared = self.bench.device.kind == "cpu"
        try:
            wait_for_memory(
                self.bench.device,
                self.seen.before,
                tolerance_bytes=MEMORY_SLACK_BYTES,
                deadline_s=SHARED_MEMORY_BACK_S if shared else MEMORY_BACK_S,
            )
        except OrphanError as error:
            if not shared:
                raise
            self.seen.doubts.append(f"other programs took memory meanwhile: {error}")

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
