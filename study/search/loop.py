"""The loop around the trials: what is queued first, what a failed trial means, when to stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from objectives.causes import cause_named
from objectives.constraints import CONSTRAINTS
from objectives.errors import BenchError, UsageError
from objectives.evidence import Fault, fault_of
from objectives.space import point_key
from storage.trials import put_attrs
from study.config import StudyConfig
from study.samplers import Predict, infeasible_points
from study.search.progress import Progress
from study.search.queue import enqueue_again, sweep, unfinished_business
from study.search.stopping import Stopping, launches

SMALL_SPACE = 200
"""In a space of at most so many points, those that are never launched are recorded, too."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A study that is open, its sampler set, and how its trials are judged."""

    config: StudyConfig
    study: optuna.Study
    objective: Callable[[optuna.Trial], tuple[float, ...]]
    attrs: Mapping[str, object]  # what stands on the study
    predict: Predict | None = None  # what is known of a point before a launch; None: nothing


def run_search(
    search: Search,
    progress: Progress,
    *,
    trials: int | None = None,
    timeout_s: float | None = None,
    on_trial_end: Callable[[optuna.Study], None] = lambda study: None,
) -> bool:
    """Ask, judge, tell, until there is a reason to stop.

    At most so many launched `trials` and `timeout_s` seconds from now on; None: the configuration's
    budget decides. `on_trial_end` is called after every trial.

    Returns:
        Whether the bench is healthy; if not, `progress` has shown why.

    Raises:
        UsageError: The study was measured under other conditions.
    """
    config, study = search.config, search.study
    _check_same(study, search.attrs, config)
    put_attrs(study, search.attrs)
    _queue(search, progress)
    names = list(config.directions)
    budget = config.document.budget
    stopping = Stopping(
        space=config.space,
        trials=launches(study.get_trials(deepcopy=False)) + trials if trials else budget.trials,
        timeout_s=timeout_s or budget.timeout_s,
        generations=budget.generations if config.document.sampler.name == "tournament" else None,
        patience=budget.patience,
        tolerance=budget.tolerance,
    )
    reason = stopping.reason(study)
    faults = _Faults()

    def after_trial(study: optuna.Study, trial: FrozenTrial) -> None:
        faults.see(study, trial, progress)
        progress.on_trial_end(trial, names, stopping.left(study))
        on_trial_end(study)
        if faults.stop:
            study.stop()

    if reason is None:
        study.optimize(
            search.objective, n_trials=None, callbacks=[after_trial, stopping], catch=(BenchError,)
        )
        reason = stopping.reason(study) or faults.stop
    # Last, when every start has taught the arithmetic: none is recorded as impossible on an
    # estimate that a later start would have corrected.
    if not faults.stop:
        _record_infeasible(search, after_trial)
    if reason:
        progress.log(reason)
    return faults.stop is None


def _record_infeasible(
    search: Search, after_trial: Callable[[optuna.Study, FrozenTrial], None]
) -> None:
    """Points that are certain not to work: recorded with their cause, once the rest is known."""
    space, study = search.config.space, search.study
    if search.predict is None or (space.size or SMALL_SPACE + 1) > SMALL_SPACE:
        return
    known = {point_key(trial.params) for trial in study.get_trials(deepcopy=False)}
    infeasible = [p for p in infeasible_points(space, search.predict) if point_key(p) not in known]
    for point in infeasible:
        study.enqueue_trial(point)
    if infeasible:
        study.optimize(
            search.objective, n_trials=len(infeasible), callbacks=[after_trial], catch=(BenchError,)
        )


@dataclass
class _Faults:
    """What to do about trials that failed: try again, or stop the bench."""

    stop: str | None = None

    def see(self, study: optuna.Study, trial: FrozenTrial, progress: Progress) -> None:
        """Look at a trial that just ended."""
        if trial.state != TrialState.FAIL:
            return
        fault = fault_of(trial.user_attrs) or Fault()
        if fault.type == "OrphanError":
            self.stop = f"the bench stops: {fault.message}"
        elif cause_named(fault.cause).fault == "machine":
            self.stop = f"the device is at fault, the bench stops: {fault.message}"
        # The bench broke, not the point: it goes back into the queue.
        elif enqueue_again(study, trial):
            progress.log(f"trial {trial.number} will be tried again")
        else:
            progress.log(f"trial {trial.number} failed too often and is left alone")
            if not launches(study.get_trials(deepcopy=False)):
                self.stop = "nothing works on this bench; see the last trial's log"


def _check_same(study: optuna.Study, attrs: Mapping[str, object], config: StudyConfig) -> None:
    """Refuse to mix trials that were measured under different conditions."""
    known = study.user_attrs
    for key, what in (
        ("load", "load"),
        ("weights", "weights"),
        ("device", "device"),
        ("replay", "table"),
        ("objectives", "objectives"),
        ("constraints", "constraints"),
    ):
        old, new = known.get(key), attrs.get(key)
        if key == "device" and isinstance(old, dict) and isinstance(new, dict):
            old, new = old.get("uuid"), new.get("uuid")
        if key == "constraints" and isinstance(old, list) and isinstance(new, list):
            # The program's own may grow from one version to the next.
            old, new = ([n for n in names if n not in CONSTRAINTS] for names in (old, new))
        if study.trials and key in known and json.dumps(old) != json.dumps(new):
            raise UsageError(
                f"study {config.name!r} was measured with another {what}; "
                "give this one another --study-name"
            )


def _queue(search: Search, progress: Progress) -> None:
    """The baseline first; what a killed run left behind next."""
    study, baseline = search.study, search.config.baseline
    for number in sweep(study):
        progress.log(f"trial {number} was cut off; its point is measured again")
    for trial in unfinished_business(study):
        if enqueue_again(study, trial):
            progress.log(f"trial {trial.number} was interrupted; its point is measured again")
    if baseline is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(baseline, user_attrs={"baseline": True})
