"""What people see of a study: text, HTML, pictures, notes on the dashboard."""

from __future__ import annotations

from study.reports.dashboard_notes import annotate, with_notes
from study.reports.html import html_report
from study.reports.infeasible_map import map_figure
from study.reports.interactive import front_graphs, hypervolume_graph, memory_graph
from study.reports.legacy_record import legacy_lines
from study.reports.plots import STYLE, fitness_figure, front_figure, memory_figure, save, title
from study.reports.text import text_report
from study.reports.timeline import pictures, trial_timeline

__all__ = [
    "STYLE",
    "annotate",
    "fitness_figure",
    "front_figure",
    "front_graphs",
    "html_report",
    "hypervolume_graph",
    "legacy_lines",
    "map_figure",
    "memory_figure",
    "memory_graph",
    "pictures",
    "save",
    "text_report",
    "title",
    "trial_timeline",
    "with_notes",
]
