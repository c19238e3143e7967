"""Recorded tables: written from any study, and a study that draws from one."""

from __future__ import annotations

from study.replay.csv_table import read_table, table_frame
from study.replay.objective import replay_objective, replay_study, table_constraints
from study.replay.table import Table

__all__ = [
    "Table",
    "read_table",
    "replay_objective",
    "replay_study",
    "table_constraints",
    "table_frame",
]
