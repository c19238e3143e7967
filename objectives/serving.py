"""The objective: a trial goes in, a Measurement or the reason why there is none comes out.

What happened is written on the trial whatever became of it: constraints, phases, device, cause,
logs and samples. An infeasible candidate is pruned, a broken bench fails the trial, and the two
are never confused.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna import Trial
from optuna.trial import TrialState

from objectives.causes import cause_named
from objectives.constraints import satisfied, violated
from objectives.device import hold_device
from objectives.errors import BenchError, InfeasibleError
from objectives.evidence import Fault, Infeasible, TrialEvidence
from objectives.memory import Calibration
from objectives.space import point_key
from objectives.trial import Bench, Seen, Stopwatch, TrialStages
from objectives.units import Scalar

CALIBRATION_ATTR = "calibration"
"""Study attribute: what every start taught, as `Calibration.to_dict` gives it."""

StoreFiles = Callable[[Trial, Sequence[Path]], None]
"""Keeps files with a trial that still runs."""

FinalAttributes = Callable[
    [Trial, Mapping[str, Scalar], Sequence[float] | None], Mapping[str, object]
]
"""Last attributes of a trial, from its point and the values it will return, if any."""

Attributes = Callable[[Trial, Mapping[str, Scalar]], Mapping[str, object]]
"""More attributes for a trial, from its point: lineage, worker."""


@dataclass
class ServingObjective:
    """Judges candidates, one at a time on its device.

    Attributes:
        bench: What stays the same from trial to trial.
        store_files: Keeps a trial's files.
        attributes: What else stands on every trial from its begin.
        final_attributes: What stands on every trial last, over all that was written before.
        on_phase: Called with every phase and step, for people.
        wait_s: Seconds to wait for a device that another study holds.
        fitness: The legacy's weighted number of a trial's figures; None where it has none.
        pictures: Draws a trial's pictures into a folder, from what is about to stand on it.
    """

    bench: Bench
    store_files: StoreFiles
    attributes: Attributes = lambda trial, params: {}
    final_attributes: FinalAttributes = lambda trial, params, values: {}
    on_phase: Callable[[str], None] = lambda text: None
    wait_s: float = 0.0
    fitness: Callable[[Mapping[str, float]], float | None] = lambda figures: None
    pictures: Callable[[Path, TrialEvidence], Sequence[Path]] = lambda folder, evidence: ()
    stages: TrialStages | None = field(init=False, default=None)

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
            # After the lock: a trial that waits for the device leaves nothing behind if it is
            # killed.
            tempfile.TemporaryDirectory(prefix="gas-trial-") as folder,
        ):
            watch = Stopwatch(on_phase=self.on_phase)
            params = self.bench.space.suggest(trial)
            return self._judge(trial, params, Path(folder), watch)

    def _judge(
        self, trial: Trial, params: Mapping[str, Scalar], folder: Path, watch: Stopwatch
    ) -> tuple[float, ...]:
        begun = TrialEvidence(point=point_key(params), weights=self.bench.weights)
        self._put(trial, {**begun.to_attrs(), **self.attributes(trial, params)})
        stages = TrialStages(
            bench=self.bench,
            params=params,
            folder=folder,
            watch=watch,
            calibration=calibration_of(trial.study),
            worked=_worked(trial.study),
        )
        self.stages = stages
        order = self.bench.constraint_names
        try:
            conclusion = stages.run()
        except InfeasibleError as error:
            own = cause_named(error.cause).constraint
            constraints = violated(order, stages.seen.all_excess, error.excess, own)
            self._write(trial, stages, constraints, infeasible=_infeasible(error))
            raise optuna.TrialPruned(f"{error.cause}: {error.evidence}") from error
        except BaseException as error:
            known = stages.seen.all_excess
            constraints = {name: known.get(name, 0.0) for name in order}
            self._write(trial, stages, constraints, error=_fault(error))
            raise
        constraints = satisfied(order, stages.seen.all_excess)
        values = tuple(conclusion.values[objective.name] for objective in self.bench.objectives)
        fitness = self.fitness(conclusion.figures)
        self._write(trial, stages, constraints, values, fitness=fitness)
        return values

    def _write(
        self,
        trial: Trial,
        stages: TrialStages,
        constraints: Mapping[str, float],
        values: Sequence[float] | None = None,
        **outcome: Any,  # noqa: ANN401 - as the fields are
    ) -> None:
        """Everything that is known of the trial and its outcome, once, before it ends.

        `outcome` is what of `TrialEvidence` no stage knows.
        """
        seen = stages.seen
        for name, value in constraints.items():
            trial.set_constraint(name, float(value))
        evidence = replace(
            seen.to_evidence(quantile=self.bench.quantile, inherited=os.environ),
            timeline=stages.watch.timeline(),
            **outcome,
        )
        if evidence.infeasible and cause_named(evidence.infeasible.cause).is_oom:
            evidence = replace(evidence, figures={**evidence.figures, "oom_events": 1.0})
        self.store_files(
            trial, [*_files(seen, stages.folder), *self.pictures(stages.folder, evidence)]
        )
        if seen.calibration is not None:
            trial.study.set_user_attr(CALIBRATION_ATTR, seen.calibration.to_dict())
        # Last: drawing and storing are part of the study's own time.
        evidence = replace(evidence, phases_s=stages.watch.seconds())
        self._put(trial, evidence.to_attrs())
        self._put(trial, self.final_attributes(trial, stages.params, values))

    @staticmethod
    def _put(trial: Trial, attrs: Mapping[str, object]) -> None:
        for key, value in attrs.items():
            if value is not None:
                trial.set_user_attr(key, value)


def calibration_of(study: optuna.Study) -> Calibration:
    """What all workers of a study have learned so far."""
    stored = study.user_attrs.get(CALIBRATION_ATTR)
    return Calibration.from_dict(stored) if isinstance(stored, Mapping) else Calibration()


def _worked(study: optuna.Study) -> list[Mapping[str, Scalar]]:
    """Points of a study at which all servers came up, whatever became of the trial."""
    return [
        trial.params
        for trial in study.get_trials(deepcopy=False)
        if trial.state == TrialState.COMPLETE or trial.constraints.get("start_refused", 0) < 0
    ]


def _infeasible(error: InfeasibleError) -> Infeasible:
    return Infeasible(
        cause=error.cause,
        evidence=error.evidence,
        remedy=error.remedy,
        predicted=error.predicted,
        figures=error.figures,
    )


def _fault(error: BaseException) -> Fault:
    interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
    cause = error.cause if isinstance(error, BenchError) else "bug"
    return Fault(
        type=type(error).__name__,
        cause="interrupted" if interrupted else cause,
        message=(str(error).strip() or type(error).__name__).splitlines()[0],
    )


def _files(seen: Seen, folder: Path) -> list[Path]:
    """Logs, and every sample."""
    files = [log for log in seen.started.logs if log.exists()]
    if seen.driven is not None:
        samples = folder / "samples.jsonl"
        samples.write_text(seen.driven.jsonl(), encoding="utf-8")
        files.append(samples)
    return files
