"""A trial, and a measured point, as reports read them.

A `TrialRecord` is one trial as it stands in the storage; a `MeasuredPoint` is all measurements of
one point of the space. Both only read: what was not measured is None, and nothing is made up for
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from statistics import median
from typing import Any

from objectives.space import Scalar, point_key


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial, as it stands in the storage.

    Attributes:
        number: Optuna's number.
        state: COMPLETE, PRUNED, FAIL, RUNNING or WAITING.
        params: The point of the space.
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

    @property
    def infeasible(self) -> Mapping[str, Any] | None:
        """Cause, evidence, remedy and whether it was predicted; None where it is feasible."""
        stored = self.attrs.get("infeasible")
        if self.feasible is not False:
            return None
        if isinstance(stored, Mapping):
            return stored
        worst = max(self.constraints, key=lambda name: self.constraints[name], default="unknown")
        excess = self.constraints.get(worst)
        evidence = "nothing was stored" if excess is None else f"{worst} exceeded by {excess:g}"
        return {"cause": worst, "evidence": evidence, "predicted": False}

    @property
    def cause(self) -> str | None:
        """One word for why there is no measurement; None where there is one."""
        reason = self.infeasible or self.attrs.get("error")
        return str(reason["cause"]) if isinstance(reason, Mapping) and "cause" in reason else None

    @property
    def phases_s(self) -> Mapping[str, float]:
        """Seconds by phase; a phase that was not reached is absent."""
        stored: Mapping[str, float] = self.attrs.get("phases_s", {})
        return stored

    @property
    def fitness(self) -> float | None:
        """The legacy weighted number; None where it was not measured."""
        stored = self.attrs.get("fitness")
        return None if stored is None else float(stored)

    @property
    def generation(self) -> int | None:
        """The generation of the tournament that it belongs to, if there is one."""
        stored = self.part("lineage").get("generation")
        return None if stored is None else int(stored)

    @property
    def kv_cache_bytes(self) -> tuple[float | None, float | None]:
        """The KV cache's size as predicted before the launch, and as vLLM logged it."""
        parts = self.part("footprint")
        predicted, logged = parts.get("predicted") or {}, parts.get("logged") or {}
        size = logged.get("kv_cache_bytes", logged.get("available_kv_bytes"))
        return predicted.get("kv_cache_bytes"), size

    def part(self, name: str) -> Mapping[str, Any]:
        """A stored mapping such as `footprint`; empty where it was not stored."""
        stored = self.attrs.get(name)
        return stored if isinstance(stored, Mapping) else {}

    def figure(self, name: str) -> float | None:
        """A measured quantity by its public name: an objective's, or a stored attribute's.

        An objective that should be near a target has a distance for its value; the figure itself
        is in the attribute only.
        """
        stored = self.attrs.get(name)
        if isinstance(stored, int | float) and not isinstance(stored, bool):
            return float(stored)
        return None if self.values is None or name in self.distances else self.values.get(name)

    def interval(self, name: str) -> tuple[float, float] | None:
        """The stored interval of an objective, in its own unit."""
        stored = self.part("intervals").get(name)
        return None if stored is None else (float(stored[0]), float(stored[1]))


@dataclass(frozen=True, kw_only=True)
class MeasuredPoint:
    """All measurements of one point of the space that were feasible.

    Attributes:
        point: The key that they share.
        trials: At least one, by number.
    """

    point: str
    trials: tuple[TrialRecord, ...]

    @property
    def doubted(self) -> bool:
        """Whether every measurement of it is doubted."""
        return all(trial.doubts for trial in self.trials)

    @property
    def trial(self) -> TrialRecord:
        """The measurement that stands for it: the first without a doubt, else the first."""
        return next((trial for trial in self.trials if not trial.doubts), self.trials[0])

    def figure(self, name: str) -> float | None:
        """The median of a quantity over the measurements; None where none has it."""
        found = [value for trial in self.trials if (value := trial.figure(name)) is not None]
        return median(found) if found else None

    def values(self) -> dict[str, float]:
        """The median of every objective, in the objectives' order."""
        measured = [trial.values for trial in self.trials if trial.values is not None]
        return {name: median(each[name] for each in measured) for name in measured[0]}


def measured_points(trials: Iterable[TrialRecord]) -> tuple[MeasuredPoint, ...]:
    """The feasible trials, measurements of the same point together, in order of appearance."""
    groups: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        if trial.feasible:
            groups.setdefault(trial.point, []).append(trial)
    return tuple(MeasuredPoint(point=key, trials=tuple(found)) for key, found in groups.items())
