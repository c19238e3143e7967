"""A study that draws from a recorded table: any sampler, in seconds, labelled as a replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna import Trial

from objectives.constraints import CONSTRAINTS
from objectives.evidence import Infeasible, TrialEvidence
from objectives.space import SearchSpace, point_key
from objectives.units import Scalar
from study.config import StudyConfig
from study.replay.table import Row, Table
from study.search import ATTR, lineage_for


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The objective: a row of the asked point, drawn at random.

    Attributes:
        table: Where rows come from; it was checked against the space.
        space: What may vary.
        objectives: Their names, in order.
        seed: Of the draws; the same trial number of the same point draws the same row.
        on_trial_start: Called with a trial's number and point.
    """

    table: Table
    space: SearchSpace
    objectives: Sequence[str]
    seed: int
    on_trial_start: Callable[[int, Mapping[str, Scalar]], None]

    def __call__(self, trial: Trial) -> tuple[float, ...]:
        """The values of a recorded measurement.

        Raises:
            TrialPruned: The recorded measurement was infeasible.
        """
        params = self.space.suggest(trial)
        self.on_trial_start(trial.number, params)
        row = self.table.draw(params, seed=self.seed, number=trial.number)
        values = None if row.values is None else [row.values[name] for name in self.objectives]
        self._write(trial, params, row)
        lineage = lineage_for(trial.study, trial, params, values=values, final=True)
        trial.set_user_attr(ATTR, lineage)
        if values is None:
            raise optuna.TrialPruned(row.cause)
        return tuple(values)

    def _write(self, trial: Trial, params: Mapping[str, Scalar], row: Row) -> None:
        """What a recorded measurement says, under the names of a real one."""
        for name in self.table.constraints:
            trial.set_constraint(name, row.constraints.get(name, 0.0))  # an older row has fewer
        trial.set_user_attr("point", point_key(params))
        trial.set_user_attr("weights", "replay")
        said = Infeasible(
            cause=row.cause or "unknown", evidence=f"recorded in {self.table.source.name}"
        )
        evidence = TrialEvidence(
            figures=row.values or {},  # what a tournament's fitness rests on
            recorded_duration_s=row.duration_s,
            infeasible=said if row.values is None else None,
        )
        for name, value in evidence.to_attrs().items():
            trial.set_user_attr(name, value)


def table_constraints(table: Table) -> list[str]:
    """The constraints that a replay's trials carry."""
    return list(table.constraints) or list(CONSTRAINTS)


def replay_objective(
    config: StudyConfig,
    table: Table,
    on_trial_start: Callable[[int, Mapping[str, Scalar]], None],
) -> Replay:
    """The objective of a configuration on a table.

    Raises:
        UsageError: The table lacks a parameter, an objective or a point of the study.
    """
    objectives = list(config.directions)
    table.check(config.space, objectives)
    return Replay(
        table=table,
        space=config.space,
        objectives=objectives,
        seed=config.document.seed,
        on_trial_start=on_trial_start,
    )


def replay_study(config: StudyConfig, path: Path) -> StudyConfig:
    """The configuration under a name of its own: no replay mixes with a real study."""
    return config.with_changes(name=f"{config.name}-replay-{path.stem}")
