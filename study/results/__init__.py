"""What a study found: trials, settings, front, picks. Reads, and writes nothing."""

from __future__ import annotations

from study.results.convergence import hypervolume_history, hypervolume_now
from study.results.findings import Findings, findings_to_dict, objective_names, read_study
from study.results.headline import change_in_words, headline, next_steps
from study.results.pareto import Floats, hypervolume, nondominated, open_boxes
from study.results.phrases import (
    DEVICE_WORDS,
    STATE_WORDS,
    UNITS,
    causes,
    changes,
    choice,
    command_lines,
    doubts_of,
    figure_with_interval,
    gib,
    label,
    number,
    point,
    seconds,
    spread,
)
from study.results.picks import SCENARIOS
from study.results.records import MeasuredPoint, TrialRecord
from study.results.trial_rows import (
    ROWS,
    conditions,
    foremost,
    kv_cache_rows,
    percentile_rows,
    phase_rows,
)

__all__ = [
    "DEVICE_WORDS",
    "ROWS",
    "SCENARIOS",
    "STATE_WORDS",
    "UNITS",
    "Findings",
    "Floats",
    "MeasuredPoint",
    "TrialRecord",
    "causes",
    "change_in_words",
    "changes",
    "choice",
    "command_lines",
    "conditions",
    "doubts_of",
    "figure_with_interval",
    "findings_to_dict",
    "foremost",
    "gib",
    "headline",
    "hypervolume",
    "hypervolume_history",
    "hypervolume_now",
    "kv_cache_rows",
    "label",
    "next_steps",
    "nondominated",
    "number",
    "objective_names",
    "open_boxes",
    "percentile_rows",
    "phase_rows",
    "point",
    "read_study",
    "seconds",
    "spread",
]
