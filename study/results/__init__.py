"""What a study found: trials, settings, front, picks. Reads, and writes nothing."""

from __future__ import annotations

from study.results.convergence import hypervolume_history, hypervolume_now
from study.results.findings import Findings, findings_to_dict, read_study
from study.results.headline import change_in_words, headline, next_steps
from study.results.pareto import (
    Floats,
    far_corner,
    hypervolume,
    hypervolume_share,
    losses,
    may_dominate,
    nondominated,
    open_boxes,
    undominated,
)
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
from study.results.points import MeasuredPoint, intervals, measured_points
from study.results.records import (
    TrialRecord,
    directions_of,
    is_launched,
    objective_names,
    read_trials,
    trial_record,
)
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
    "directions_of",
    "doubts_of",
    "far_corner",
    "figure_with_interval",
    "findings_to_dict",
    "foremost",
    "gib",
    "headline",
    "hypervolume",
    "hypervolume_history",
    "hypervolume_now",
    "hypervolume_share",
    "intervals",
    "is_launched",
    "kv_cache_rows",
    "label",
    "losses",
    "may_dominate",
    "measured_points",
    "next_steps",
    "nondominated",
    "number",
    "objective_names",
    "open_boxes",
    "percentile_rows",
    "phase_rows",
    "point",
    "read_study",
    "read_trials",
    "seconds",
    "spread",
    "trial_record",
    "undominated",
]
