"""The objective: a trial goes in, a Measurement or the reason why there is none comes out.

What happened is written on the trial whatever became of it: constraints, phases, device, cause,
logs and samples. An infeasible candidate is pruned, a broken bench fails the trial, and the two
are never confused.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna import Trial

from objectives.constraints import satisfied, violated
from objectives.device import hold_device
from objectives.errors import BenchError, InfeasibleError
from objectives.memory import Calibration
from objectives.space import Scalar, point_key
from objectives.trial import Bench, Seen, Stopwatch, Walk, shown

CALIBRATION_ATTR = "calibration"
"""Study attribute: what every start taught, as `Calibration.to_document` gives it."""

Keep = Callable[[Trial, Sequence[Path]], None]
"""Keeps files with a trial that still runs."""

Seal = Callable[[Trial, Mapping[str, Scalar], Sequence[float] | None], Mapping[str, object]]
"""Last attributes of a trial, from its point and the values it will return, if any."""

Attributes = Callable[[Trial, Mapping[str, Scalar]], Mapping[str, object]]
"""More attributes for a trial, from its point: lineage, worker."""


@dataclass
class ServingObjective:
    """Judges candidates, one at a time on its device.

    Attributes:
        bench: What stays the same from trial to trial.
        keep: Keeps a trial's files.
        attributes: What else stands on every trial from its begin.
        seal: What stands on every trial last, over all that was written before.
        told: Called with every phase and step, for people.
        wait_s: Seconds to wait for a device that another study holds.
        fitness: The legacy's weighted number of a trial's figures; None where it has none.
        pictures: Draws a trial's pictures into a folder, from its timeline and telemetry.
    """

    bench: Bench
    keep: Keep
    attributes: Attributes = lambda trial, params: {}
    seal: Seal = lambda trial, params, values: {}
    told: Callable[[str], None] = lambda text: None
    wait_s: float = 0.0
    fitness: Callable[[Mapping[str, float]], float | None] = lambda figures: None
    pictures: Callable[[Path, Mapping[str, Any]], Sequence[Path]] = lambda folder, attrs: ()
    walk: Walk | None = field(init=False, default=None)

    def __call__(self, trial: Trial) -> tuple[float, ...]:
        """Judge the trial's point.

        Returns:
            The values of the objectives, in their declared order.

        Raises:
            TrialPruned: The candidate is infeasible.
            BenchError: The bench broke.
        """
        with (
            hold_device(
                self.bench.device,
                folder=self.bench.lock_folder,
                wait_s=self.wait_s,
                study=trial.study.study_name,
            ),
            tempfile.TemporaryDirectory(prefix="gas-trial-") as folder,
        ):
            watch = Stopwatch(told=self.told)
            params = self.bench.space.suggest(trial)
            return self._judge(trial, params, Path(folder), watch)

    def _judge(
        self, trial: Trial, params: Mapping[str, Scalar], folder: Path, watch: Stopwatch
    ) -> tuple[float, ...]:
        self._put(
            trial,
            {
                "point": point_key(params),
                "weights": self.bench.weights,
                **self.attributes(trial, params),
            },
        )
        walk = Walk(
            bench=self.bench,
            params=params,
            folder=folder,
            watch=watch,
            calibration=calibration_of(trial.study),
        )
        self.walk = walk
        order = self.bench.constraint_names
        try:
            figures = walk.run()
        except InfeasibleError as error:
            excess = {**walk.seen.excess, **error.excess}
            constraints = violated(order, walk.seen.excess, excess, error.cause)
            self._write(trial, walk, constraints, _infeasible(error))
            raise optuna.TrialPruned(f"{error.cause}: {error.evidence}") from error
        except BaseException as error:
            constraints = {name: walk.seen.excess.get(name, 0.0) for name in order}
            self._write(trial, walk, constraints, {"error": _fault(error)})
            raise
        constraints = satisfied(order, walk.seen.excess, {})
        values = tuple(walk.seen.values[objective.name] for objective in self.bench.objectives)
        self._write(trial, walk, constraints, {"fitness": self.fitness(figures)}, values)
        return values

    def _write(
        self,
        trial: Trial,
        walk: Walk,
        constraints: Mapping[str, float],
        outcome: Mapping[str, object],
        values: Sequence[float] | None = None,
    ) -> None:
        """Everything that is known of the trial, once, before it ends."""
        seen = walk.seen
        for name, value in constraints.items():
            trial.set_constraint(name, float(value))
        attrs = {**_record(seen, self.bench), **outcome}
        attrs["timeline"] = walk.watch.timeline()
        self.keep(trial, [*_files(seen, walk.folder), *self.pictures(walk.folder, attrs)])
        if seen.calibration is not None:
            trial.study.set_user_attr(CALIBRATION_ATTR, seen.calibration.to_document())
        self._put(trial, attrs)
        self._put(trial, {"phases_s": walk.watch.seconds()})
        self._put(trial, self.seal(trial, walk.params, values))

    @staticmethod
    def _put(trial: Trial, attrs: Mapping[str, object]) -> None:
        for key, value in attrs.items():
            if value is not None:
                trial.set_user_attr(key, value)


def calibration_of(study: optuna.Study) -> Calibration:
    """What all workers of a study have learned so far."""
    stored = study.user_attrs.get(CALIBRATION_ATTR)
    return Calibration.from_document(stored) if isinstance(stored, Mapping) else Calibration()


def _infeasible(error: InfeasibleError) -> dict[str, object]:
    said: dict[str, object] = {
        "cause": error.cause,
        "evidence": error.evidence,
        "remedy": error.remedy,
        "predicted": error.predicted,
        "figures": error.figures,
    }
    return {"infeasible": said, "oom_events": 1.0} if "oom" in error.cause else {"infeasible": said}


def _fault(error: BaseException) -> dict[str, object]:
    interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
    cause = error.cause if isinstance(error, BenchError) else "bug"
    return {
        "type": type(error).__name__,
        "cause": "interrupted" if interrupted else cause,
        "message": (str(error).strip() or type(error).__name__).splitlines()[0],
    }


def _record(seen: Seen, bench: Bench) -> dict[str, object]:
    """The attributes that a trial's evidence becomes."""
    attrs: dict[str, object] = dict(seen.figures)
    tenants = seen.tenants
    if tenants is not None and tenants.launches:
        attrs["settings"] = {
            name: shown(launch, os.environ) for name, launch in tenants.launches.items()
        }
    if tenants is not None and tenants.health is not None:
        attrs["whisper"] = dict(tenants.health)
    if seen.before is not None:
        attrs["device_state"] = seen.before.document()
    footprint: dict[str, object] = {}
    if seen.prospect is not None:
        footprint["predicted"] = seen.prospect.document()
    if tenants is not None and tenants.started is not None:
        logged = tenants.started.document()
        if tenants.started.available_kv_bytes is not None:
            logged["kv_cache_bytes"] = tenants.started.available_kv_bytes
        footprint["logged"] = logged
    if footprint:
        attrs["footprint"] = footprint
    if seen.telemetry is not None:
        whole = seen.whole_telemetry or seen.telemetry
        attrs["telemetry"] = {
            **seen.telemetry.document(),
            "samples": whole.document()["samples"],
            "began_s": round(seen.telemetry_began_s, 3),
        }
        attrs["tenants_bytes"] = seen.telemetry.tenants_bytes
    if seen.measurement is not None:
        attrs["measurement"] = seen.measurement.document()
        intervals = seen.measurement.legacy(bench.quantile).intervals
        attrs["intervals"] = {name: list(between) for name, between in intervals.items()}
    attrs["doubts"] = seen.doubts
    return attrs


def _files(seen: Seen, folder: Path) -> list[Path]:
    """Logs, and every sample."""
    files = [] if seen.tenants is None else [log for log in seen.tenants.logs if log.exists()]
    if seen.driven is not None:
        samples = folder / "samples.jsonl"
        samples.write_text(seen.driven.jsonl(), encoding="utf-8")
        files.append(samples)
    return files
