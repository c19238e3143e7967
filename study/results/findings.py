"""A study, read once: what every report, picture and machine reads it through.

`read_study` turns an Optuna study into `Findings`, which nothing can change any more;
`findings_to_dict` turns those into the JSON that other programs read. Nothing here writes, and
nothing here knows where it will be shown.

The front is drawn by points of the space: where one was measured several times its medians count,
and the first undoubted measurement stands for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

import optuna

from objectives.space import point_key
from storage.trials import masked
from study.results.pareto import undominated
from study.results.picks import choose
from study.results.points import MeasuredPoint, measured_points, with_unsteady_settings
from study.results.records import TrialRecord, directions_of, read_trials


@dataclass(frozen=True, kw_only=True)
class Findings:
    """A whole study, read once.

    Attributes:
        storage: Where it is kept, without a password.
        directions: Objective name to minimize or maximize, in the objectives' order.
        attrs: What was stored with the study: device, load, engines, baseline, space, ...
        points: The feasible points, each with all its measurements.
        front: Numbers of the trials whose setting no feasible setting dominates, rising.
        baseline: The trial of what runs today; None if it was not tried.
        picks: The trial to choose per scenario; None where nothing can be chosen.
    """

    study: str
    storage: str
    directions: Mapping[str, str]
    attrs: Mapping[str, Any]
    trials: tuple[TrialRecord, ...]
    points: tuple[MeasuredPoint, ...]
    front: tuple[int, ...]
    baseline: int | None
    picks: Mapping[str, int | None]

    def __getitem__(self, number: int) -> TrialRecord:
        for trial in self.trials:
            if trial.number == number:
                return trial
        raise KeyError(number)

    @property
    def device(self) -> Mapping[str, Any]:
        """Kind, name, uuid and total_bytes; empty where the study does not say."""
        stored = self.attrs.get("device")
        return stored if isinstance(stored, Mapping) else {}

    @property
    def weights(self) -> str:
        """Real, dummy or replay."""
        return "replay" if self.attrs.get("replay") else str(self.attrs.get("weights", "real"))

    @property
    def caveat(self) -> str | None:
        """What every report has to say beside its figures; None where nothing is special."""
        if self.weights == "replay":
            return f"Replay of a recorded table ({self.attrs['replay']}): nothing was measured now."
        if self.weights == "dummy":
            return "Dummy weights: speed and memory are real, words are not."
        return None

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of everything that varied, in the space's order; conditional ones, too."""
        tried = {name for trial in self.trials for name in trial.params}
        declared = [name for name in self.attrs.get("space", {}) if name in tried]
        return (*declared, *sorted(tried.difference(declared)))

    @property
    def front_points(self) -> tuple[MeasuredPoint, ...]:
        """The points of the front, in the order of `front`."""
        by_number = {setting.trial.number: setting for setting in self.points}
        return tuple(by_number[number] for number in self.front)

    @property
    def feasible(self) -> tuple[TrialRecord, ...]:
        """Every trial that was measured and whose candidate works here."""
        return tuple(trial for trial in self.trials if trial.feasible)

    @property
    def infeasible(self) -> tuple[TrialRecord, ...]:
        """Every trial whose candidate does not work here."""
        return tuple(trial for trial in self.trials if trial.feasible is False)

    def measured_point(self, number: int) -> MeasuredPoint | None:
        """The setting that a trial measured; None if the trial is not feasible."""
        return next((s for s in self.points if s.point == self[number].point), None)

    def count(self, state: str) -> int:
        """How many trials are in this state."""
        return sum(trial.state == state for trial in self.trials)

    def target(self, objective: str) -> float | None:
        """What a neutral objective should be near to; None for all others."""
        stored = self.attrs.get("objectives", {}).get(objective, {}).get("target")
        return None if stored is None else float(stored)


def read_study(study: optuna.Study, storage_url: str) -> Findings:
    """Read a study; a password in the URL is left out."""
    directions = directions_of(study)
    trials = with_unsteady_settings([_with_unread(trial) for trial in read_trials(study)])
    points = measured_points(trials)
    return Findings(
        study=study.study_name,
        storage=masked(storage_url),
        directions=directions,
        attrs=study.user_attrs,
        trials=trials,
        points=points,
        front=tuple(sorted(each.trial.number for each in undominated(points, directions))),
        baseline=_baseline(trials, study.user_attrs.get("baseline")),
        picks=choose(points, directions),
    )


def _with_unread(trial: TrialRecord) -> TrialRecord:
    """The same; doubted where a part of what it stored cannot be read."""
    doubts = trial.evidence.doubts
    return trial if doubts == trial.doubts else replace(trial, doubts=doubts)


def findings_to_dict(findings: Findings) -> dict[str, Any]:
    """What `study.report --json` prints; names and meanings are part of the program's contract."""
    device = findings.device
    return {
        "study": findings.study,
        "storage": findings.storage,
        "device": {key: device.get(key) for key in ("kind", "name", "uuid", "total_bytes")},
        "weights": findings.weights,
        "directions": dict(findings.directions),
        "trials": [_trial_to_dict(trial) for trial in findings.trials],
        "front": list(findings.front),
        "baseline": findings.baseline,
        "picks": dict(findings.picks),
        "replay": findings.attrs.get("replay"),
        "replicates": [
            {"trials": [trial.number for trial in each.trials], "medians": each.values()}
            for each in findings.points
            if len(each.trials) > 1
        ],
    }


def _baseline(trials: Iterable[TrialRecord], params: Mapping[str, Any] | None) -> int | None:
    """The trial at the baseline's point: a measured one if there is one, else a pruned one."""
    there = [trial for trial in trials if params and trial.point == point_key(params)]
    oldest = {trial.state: trial.number for trial in reversed(there)}
    return oldest.get("COMPLETE", oldest.get("PRUNED"))


def _trial_to_dict(trial: TrialRecord) -> dict[str, Any]:
    reason = trial.infeasible
    return {
        "number": trial.number,
        "state": trial.state,
        "params": dict(trial.params),
        "values": None if trial.values is None else dict(trial.values),
        "constraints": {
            name: excess if isfinite(excess) else None for name, excess in trial.constraints.items()
        },
        "feasible": trial.feasible,
        "infeasible": reason
        and {name: getattr(reason, name) for name in ("cause", "evidence", "predicted")},
        **_largest_allocation(trial),
        "phases_s": dict(trial.phases_s),
        "doubts": list(trial.doubts),
        "fitness": trial.fitness,
    }


def _largest_allocation(trial: TrialRecord) -> dict[str, Any]:
    """What the device gave in one piece, with a verdict; no key where nobody could have asked."""
    found = trial.evidence.largest_allocation
    if found is None:
        return {}
    return {"largest_allocation": {**asdict(found), "is_fragmented": found.is_fragmented}}
