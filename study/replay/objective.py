"""A study that draws from a recorded table: any sampler, in seconds, labelled as a replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
from optuna import Trial

from objectives.constraints import CONSTRAINTS
from objectives.evidence import Infeasible, TrialEvidence
from objectives.space import point_key
from objectives.units import Scalar
from study.config import StudyConfig
from study.replay.table import Row, Table
from study.search import ATTR, lineage_for


def table_constraints(table: Table) -> list[str]:
    """The constraints that a replay's trials carry."""
    return list(table.constraints) or list(CONSTRAINTS)


def replay_objective(
    config: StudyConfig,
    table: Table,
    on_trial_start: Callable[[int, Mapping[str, Scalar]], None],
) -> Callable[[Trial], tuple[float, ...]]:
    """The objective of a configuration on a table: a row of the asked point, drawn at random.

    The same trial number of the same point draws the same row for the same seed.

    Args:
        config: Of the study.
        table: Where rows come from.
        on_trial_start: Called with a trial's number and point.

    Raises:
        UsageError: The table lacks a parameter, an objective or a point of the study.
    """
    objectives = list(config.directions)
    table.check(config.space, objectives)

    def measured(trial: Trial) -> tuple[float, ...]:
        params = config.space.suggest(trial)
        on_trial_start(trial.number, params)
        row = table.draw(params, seed=config.document.seed, number=trial.number)
        values = None if row.values is None else [row.values[name] for name in objectives]
        _write(trial, table, params, row)
        lineage = lineage_for(trial.study, trial, params, values=values, final=True)
        trial.set_user_attr(ATTR, lineage)
        if values is None:
            raise optuna.TrialPruned(row.cause)
        return tuple(values)

    return measured


def _write(trial: Trial, table: Table, params: Mapping[str, Scalar], row: Row) -> None:
    """What a recorded measurement says, under the names of a real one."""
    for name in table.constraints:
        trial.set_constraint(name, row.constraints.get(name, 0.0))  # an older row has fewer
    said = Infeasible(cause=row.cause or "unknown", evidence=f"recorded in {table.source.name}")
    evidence = TrialEvidence(
        point=point_key(params),
        weights="replay",
        figures=row.values or {},  # what a tournament's fitness rests on
        recorded_duration_s=row.duration_s,
        infeasible=said if row.values is None else None,
    )
    for name, value in evidence.to_attrs().items():
        trial.set_user_attr(name, value)


def replay_study(config: StudyConfig, path: Path) -> StudyConfig:
    """The configuration under a name of its own: no replay mixes with a real study."""
    return config.with_changes(name=f"{config.name}-replay-{path.stem}")
