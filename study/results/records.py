"""A trial as it stands in the storage, as reports, samplers and the stopping rule read it.

What was not measured is None, and nothing is made up for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from math import isfinite
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from objectives.evidence import Infeasible, TrialEvidence, infeasible_of, intervals_of
from objectives.space import plain, point_key
from objectives.units import Scalar


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial, as it stands in the storage.

    Attributes:
        state: COMPLETE, PRUNED, FAIL, RUNNING or WAITING.
        values: Objective name to value, in the objective's own unit; None unless COMPLETE, and
            where a value is no finite number.
        constraints: Constraint name to its excess, > 0 violated.
        attrs: Everything else that was stored with it, by attribute name.
        doubts: Why its figures should not be trusted, in words.
        started: When it began, local time; None while it waits.
        duration_s: From its begin to its end; None until it has one.
        distances: The objectives whose values are distances from a target.
    """

    number: int
    state: str
    params: Mapping[str, Scalar]
    values: Mapping[str, float] | None
    constraints: Mapping[str, float]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    started: datetime | None = None
    duration_s: float | None = None
    distances: frozenset[str] = frozenset()

    @cached_property
    def point(self) -> str:
        """The key that replicates of this setting share."""
        return point_key(self.params)

    @property
    def feasible(self) -> bool | None:
        """Whether the candidate works here; None while nobody knows, or if the bench broke."""
        if self.state == "COMPLETE" and self.values is not None:
            return all(excess <= 0 for excess in self.constraints.values())
        return False if self.state == "PRUNED" else None

    @cached_property
    def evidence(self) -> TrialEvidence:
        """What the trial saw."""
        return TrialEvidence.from_attrs(self.attrs)

    @cached_property
    def infeasible(self) -> Infeasible | None:
        """Why the candidate does not work here; None where it does, or nobody knows."""
        if self.feasible is not False:
            return None
        if (stored := infeasible_of(self.attrs)) is not None:
            return stored
        worst = max(self.constraints, key=lambda name: self.constraints[name], default="unknown")
        excess = self.constraints.get(worst)
        said = "nothing was stored" if excess is None else f"{worst} exceeded by {excess:g}"
        return Infeasible(cause=worst, evidence=said)

    @property
    def predicted(self) -> bool:
        """Whether arithmetic refused it, and nothing was launched."""
        return self.infeasible is not None and self.infeasible.predicted

    @property
    def launched(self) -> bool:
        """Whether it used a slot of the budget: measured, or launched and infeasible."""
        return self.state in ENDED and not self.predicted

    @property
    def cause(self) -> str | None:
        """One word for why there is no measurement; None where there is one."""
        reason = self.infeasible or self.evidence.error
        return None if reason is None else reason.cause

    @property
    def phases_s(self) -> Mapping[str, float]:
        """Seconds by phase; a phase that was not reached is absent."""
        return self.evidence.phases_s

    @property
    def fitness(self) -> float | None:
        """The legacy weighted number; None where it was not measured."""
        return self.evidence.fitness

    @property
    def generation(self) -> int | None:
        """The generation of the tournament that it belongs to, if there is one."""
        found: int | None = (self.attrs.get("lineage") or {}).get("generation")
        return found

    @property
    def kv_cache_bytes(self) -> tuple[int | None, int | None]:
        """The KV cache's size as predicted before the launch, and as vLLM logged it."""
        sizes = (memory.kv_cache_bytes for memory in self.evidence.footprint.values())
        return next((found for found in sizes if found != (None, None)), (None, None))

    def figure(self, name: str) -> float | None:
        """A measured quantity by its public name: an objective's, or another figure's.

        An objective that should be near a target has a distance for its value; the figure itself
        is stored beside it.
        """
        stored = self.fitness if name == "fitness" else self.evidence.figures.get(name)
        if stored is not None:
            return stored
        return None if self.values is None or name in self.distances else self.values.get(name)

    def interval(self, name: str) -> tuple[float, float] | None:
        """The stored interval of an objective, in its own unit."""
        return intervals_of(self.attrs).get(name)


ENDED = ("COMPLETE", "PRUNED")
"""The states of trials that say something of their candidate."""


def read_trials(study: optuna.Study) -> tuple[TrialRecord, ...]:
    """All trials of a study, by number."""
    names = objective_names(study)
    distances = frozenset(
        name
        for name, described in study.user_attrs.get("objectives", {}).items()
        if described.get("target") is not None
    )
    return tuple(
        trial_record(trial, names, distances) for trial in study.get_trials(deepcopy=False)
    )


def trial_record(
    trial: FrozenTrial, names: Sequence[str], distances: frozenset[str] = frozenset()
) -> TrialRecord:
    """One trial; names are the objectives', in order, distances those that have a target."""
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        params={name: plain(value) for name, value in trial.params.items()},
        values=_values(trial, names),
        constraints=dict(trial.constraints),
        attrs=trial.user_attrs,
        doubts=tuple(trial.user_attrs.get("doubts", ())),
        started=trial.datetime_start,
        duration_s=None if trial.duration is None else trial.duration.total_seconds(),
        distances=distances,
    )


def is_launched(trial: FrozenTrial) -> bool:
    """Whether a trial used a slot of the budget; see `TrialRecord.launched`."""
    return trial_record(trial, ()).launched


def _values(trial: FrozenTrial, names: Sequence[str]) -> dict[str, float] | None:
    """The objectives' values by name; None where there are none, or no finite ones."""
    found = trial.values or ()
    known = bool(found) and all(map(isfinite, found))
    return dict(zip(names, found, strict=bool(names))) if known else None


def objective_names(study: optuna.Study) -> list[str]:
    """The objectives' names, in order: those the study was given, else a number each."""
    given = study.metric_names or list(study.user_attrs.get("objectives", {}))
    if len(given) == len(study.directions):
        return list(given)
    return [f"objective_{index}" for index in range(len(study.directions))]


def directions_of(study: optuna.Study) -> dict[str, str]:
    """Objective name to minimize or maximize, in the objectives' order."""
    ways = [direction.name.lower() for direction in study.directions]
    return dict(zip(objective_names(study), ways, strict=True))
